//! A node's attributes, read by name and checked for their type.

use super::proto::{Attribute, Graph, Tensor};
use super::report::Reason;

/// The attributes of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [Attribute]);

impl<'a> Attributes<'a> {
    fn find(self, name: &str) -> Option<&'a Attribute> {
        self.0.iter().find(|a| a.name == name)
    }

    /// Reads one attribute if it is there; a wrong type is the file's mistake.
    fn read<T>(
        self,
        name: &str,
        read: impl Fn(&'a Attribute) -> Option<T>,
    ) -> Result<Option<T>, Reason> {
        let Some(attribute) = self.find(name) else {
            return Ok(None);
        };
        if !attribute.reference.is_empty() {
            return Err(Reason::malformed(format!("`{name}` refers to a function's attribute")));
        }
        let wrong = || Reason::malformed(format!("the attribute `{name}` has another type"));
        read(attribute).map(Some).ok_or_else(wrong)
    }

    pub(super) fn int(self, name: &str) -> Result<Option<i64>, Reason> {
        // An attribute whose number is 0 may leave it out.
        self.read(name, |a| a.int.or((a.kind == 2).then_some(0)))
    }

    pub(super) fn float(self, name: &str) -> Result<Option<f32>, Reason> {
        self.read(name, |a| a.float.or((a.kind == 1).then_some(0.0)))
    }

    pub(super) fn text(self, name: &str) -> Result<Option<&'a str>, Reason> {
        self.read(name, |a| match &a.text {
            Some(bytes) => std::str::from_utf8(bytes).ok(),
            None => (a.kind == 3).then_some(""),
        })
    }

    pub(super) fn texts(self, name: &str) -> Result<Option<Vec<&'a str>>, Reason> {
        self.read(name, |a| a.texts.iter().map(|t| std::str::from_utf8(t).ok()).collect())
    }

    pub(super) fn ints(self, name: &str) -> Result<Option<Vec<i64>>, Reason> {
        self.read(name, |a| (a.kind == 7 || !a.ints.is_empty()).then(|| a.ints.clone()))
    }

    pub(super) fn floats(self, name: &str) -> Result<Option<Vec<f32>>, Reason> {
        self.read(name, |a| (a.kind == 6 || !a.floats.is_empty()).then(|| a.floats.clone()))
    }

    pub(super) fn tensor(self, name: &str) -> Result<Option<&'a Tensor>, Reason> {
        self.read(name, |a| a.tensor.as_ref())
    }

    pub(super) fn graph(self, name: &str) -> Result<Option<&'a Graph>, Reason> {
        self.read(name, |a| a.graph.as_ref())
    }

    pub(super) fn has(self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
