//! Control flow that is decided when importing: a branch whose condition is known.

use super::super::call::Call;
use super::super::graph::Step;
use super::super::import::Term;
use super::super::report::Reason;
use super::{Entry, Mapped};

pub(super) const TABLE: &[Entry] = &[("If", branch)];

/// Imports the branch that is taken. Names within it are unique in the whole file, as ONNX demands.
fn branch(call: &mut Call<'_>) -> Mapped {
    let condition = call.known_int(0)?;
    let name = if condition == 0 { "else_branch" } else { "then_branch" };
    let graph = call.attributes().graph(name)?;
    let graph = graph.ok_or_else(|| Reason::malformed(format!("there is no {name}")))?;
    if !graph.initializers.is_empty() || !graph.sparse_initializers.is_empty() {
        return Err(Reason::form("initializers within a branch are not supported"));
    }
    let opset = call.opset();
    for node in &graph.nodes {
        call.importer.step(&Step { node: node.clone(), opset });
    }
    let mut results = Vec::new();
    for output in &graph.outputs {
        let term: Option<Term> = call.importer.term(&output.name)?;
        results.push(term.ok_or_else(|| Reason::form("its branch is not supported"))?);
    }
    Ok(results)
}
