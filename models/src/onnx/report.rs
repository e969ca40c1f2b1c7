//! Everything that stands in the way of an import, told at once: node, operator, reason.

use std::collections::BTreeMap;
use std::fmt;

use wattle_protocol::dag::DagError;

use super::read::ReadError;

/// Why one node (or the graph as a whole) cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There is no mapping of the operator.
    #[error("the operator is not supported")]
    Operator,
    /// The operator is supported, but not in this form.
    #[error("{0}")]
    Form(String),
    /// A value decides about shapes, so that it must be known when the network is built.
    #[error("`{name}` must be known when importing; fix what it follows from: {}", inputs.join(", "))]
    NotKnown {
        /// The value.
        name: String,
        /// The inputs that it follows from.
        inputs: Vec<String>,
    },
    /// The file contradicts itself or the standard.
    #[error("the file is wrong: {0}")]
    Malformed(String),
    /// The operands do not fit an operator of Wattle.
    #[error("{0}")]
    Build(#[from] DagError),
}

impl Reason {
    /// Says that an operator is not supported in this form.
    pub(crate) fn form(what: impl Into<String>) -> Self {
        Self::Form(what.into())
    }

    /// Says that the file is wrong.
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the node, or of the input or initializer.
    pub node: String,
    /// Its operator; empty where it is no node.
    pub operator: String,
    /// What is wrong.
    pub reason: Reason,
}

/// All that stands in the way of one import; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough names to find the place in a network of thousands of nodes.
        const NAMES_MAX: usize = 4;
        let mut groups: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for problem in &self.0 {
            let key = (problem.operator.as_str(), problem.reason.to_string());
            groups.entry(key).or_default().push(&problem.node);
        }
        let places = self.0.len();
        write!(
            f,
            "{places} {} in the way:",
            if places == 1 { "thing stands" } else { "things stand" }
        )?;
        for ((operator, reason), names) in &groups {
            let shown: Vec<&str> = names.iter().take(NAMES_MAX).copied().collect();
            let rest = names.len() - shown.len();
            let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
            let what = if operator.is_empty() { "" } else { ": " };
            write!(f, "\n  {operator}{what}{reason} ({}{rest})", shown.join(", "))?;
        }
        Ok(())
    }
}

/// Why a model is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The network cannot be expressed.
    #[error(transparent)]
    Problems(#[from] Problems),
}

/// Makes the error of one tensor that is wrong.
pub(super) fn single(name: &str, why: String) -> ImportError {
    let reason = Reason::Malformed(why);
    let problem = Problem { node: name.into(), operator: String::new(), reason };
    ImportError::Problems(Problems(vec![problem]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_told_once_with_the_names_of_their_nodes() {
        let problem = |node: &str, operator: &str, reason: Reason| Problem {
            node: node.into(),
            operator: operator.into(),
            reason,
        };
        let problems = Problems(vec![
            problem("a", "Loop", Reason::Operator),
            problem("b", "Loop", Reason::Operator),
            problem("x", "", Reason::malformed("its shape is [-1]")),
        ]);
        assert_eq!(
            problems.to_string(),
            "3 things stand in the way:\n  the file is wrong: its shape is [-1] (x)\n  Loop: the operator is not supported (a, b)"
        );
    }
}
