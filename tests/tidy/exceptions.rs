//! What a check has found, and the exceptions from it, which may only become fewer.

use crate::source::read;

/// Entries in the list. Lower it with each entry that goes; raising it needs a decision record.
pub(crate) const ENTRIES: usize = 14;
/// An entry for a size may allow so many lines more than there are; beyond, it has to be lowered.
const SLACK: usize = 60;
/// The list.
const LIST: &str = "tests/tidy-exceptions.txt";

/// A place that breaks a rule.
#[derive(Debug)]
pub(crate) struct Offence {
    /// File, from the root.
    pub(crate) path: String,
    /// Line (from 1), or 0 for the file as a whole.
    pub(crate) line: usize,
    /// What within the file, as it stands in the list of exceptions; empty for the file as a whole.
    pub(crate) what: String,
    /// How large, where the rule is about sizes.
    pub(crate) size: Option<usize>,
    /// What is wrong and what to do.
    pub(crate) remedy: String,
}

impl Offence {
    /// Notes an offence that has no size.
    pub(crate) fn new(path: &str, line: usize, remedy: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: String::new(), size: None, remedy: remedy.into() }
    }

    /// Names what within the file offends, so that an exception can name it too.
    #[must_use]
    pub(crate) fn about(mut self, what: &str) -> Self {
        what.clone_into(&mut self.what);
        self
    }
}

/// An entry: `rule path[::what] [size]`.
#[derive(Debug)]
struct Exception {
    line: usize,
    rule: String,
    place: String,
    size: Option<usize>,
}

fn exceptions() -> Vec<Exception> {
    read(LIST)
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty())
        .map(|(line, text)| {
            let mut words = text.split_whitespace().map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            let (rule, place, size) = (word(), word(), word());
            Exception { line, rule, place, size: size.parse().ok() }
        })
        .collect()
}

/// Fails with every offence that no exception covers, and with every exception that covers none.
pub(crate) fn judge(rule: &str, offences: &[Offence]) {
    let exceptions: Vec<Exception> = exceptions().into_iter().filter(|e| e.rule == rule).collect();
    let mut report = Vec::new();
    let place_of = |offence: &Offence| {
        if offence.what.is_empty() {
            offence.path.clone()
        } else {
            format!("{}::{}", offence.path, offence.what)
        }
    };
    for offence in offences {
        let allowed = exceptions.iter().find(|e| e.place == place_of(offence));
        let covers = allowed.is_some_and(|e| match (e.size, offence.size) {
            (Some(limit), Some(size)) => size <= limit,
            (None, Some(_)) => false,
            (_, None) => true,
        });
        if !covers {
            report.push(format!("{}:{}: {}", offence.path, offence.line, offence.remedy));
        }
    }
    for exception in &exceptions {
        let offence = offences.iter().find(|o| place_of(o) == exception.place);
        let lower = match (exception.size, offence.and_then(|o| o.size)) {
            (Some(limit), Some(size)) => limit > size + SLACK,
            _ => false,
        };
        if offence.is_none() {
            report.push(format!(
                "{LIST}:{}: {} keeps the rule \"{rule}\" without an exception; delete this line and lower ENTRIES",
                exception.line, exception.place
            ));
        } else if lower {
            report.push(format!(
                "{LIST}:{}: {} has become smaller; lower its size",
                exception.line, exception.place
            ));
        }
    }
    assert!(
        report.is_empty(),
        "{} offences against \"{rule}\":\n{}",
        report.len(),
        report.join("\n")
    );
}

/// Fails if the list has grown, or names rules that do not exist.
pub(crate) fn check_list(rules: &[&str]) {
    let list = exceptions();
    let unknown: Vec<&str> =
        list.iter().map(|e| e.rule.as_str()).filter(|r| !rules.contains(r)).collect();
    assert!(unknown.is_empty(), "{LIST} names rules that do not take exceptions: {unknown:?}");
    assert_eq!(
        list.len(),
        ENTRIES,
        "{LIST} has {} entries, tests/tidy/exceptions.rs says {ENTRIES}: mend the offence instead of adding an entry, \
         and lower ENTRIES when one goes",
        list.len()
    );
}
