//! The graph as a list of steps: functions of the file expanded, nodes that no output needs left out, the rest in an
//! order in which each comes after what it reads.
//!
//! Not here: what a node means (`map`), what is known of values (`import`).

use std::collections::{BTreeMap, BTreeSet};

use super::proto::{Attribute, Function, Graph, Node, Opset};
use super::report::{Problem, Reason};

/// Most nodes after functions are expanded.
const NODES_MAX: usize = 100_000;
/// Deepest nesting of functions that call functions.
const DEPTH_MAX: usize = 16;
/// A node with the version of its operator.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) node: Node,
    pub(super) opset: i64,
}

impl Step {
    /// Returns what a person finds the node by.
    pub(super) fn name(&self) -> &str {
        let first = || self.node.outputs.iter().find(|o| !o.is_empty());
        if self.node.name.is_empty() {
            first().map_or("?", String::as_str)
        } else {
            &self.node.name
        }
    }

    /// Says that something is wrong with this node.
    pub(super) fn problem(&self, reason: Reason) -> Problem {
        Problem { node: self.name().into(), operator: self.node.operator.clone(), reason }
    }
}

/// Says whether a domain is ONNX's own.
pub(super) fn is_own(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// Returns the version of ONNX's own operators.
pub(super) fn version(opsets: &[Opset]) -> Option<i64> {
    opsets.iter().find(|o| is_own(&o.domain)).map(|o| o.version)
}

/// Turns nodes into steps; `functions` are those that the file defines.
///
/// *Errors*: too many nodes, or functions that call themselves.
pub(super) fn expand(
    nodes: Vec<Node>,
    opset: i64,
    functions: &[Function],
) -> Result<Vec<Step>, Box<Problem>> {
    let mut steps = Vec::new();
    let mut expansion = Expansion { functions, calls: 0, steps: &mut steps };
    expansion.nodes(nodes, opset, DEPTH_MAX)?;
    Ok(steps)
}

struct Expansion<'a> {
    functions: &'a [Function],
    calls: usize,
    steps: &'a mut Vec<Step>,
}

impl Expansion<'_> {
    fn nodes(&mut self, nodes: Vec<Node>, opset: i64, depth: usize) -> Result<(), Box<Problem>> {
        for node in nodes {
            let step = Step { node, opset };
            if self.steps.len() >= NODES_MAX || self.calls >= NODES_MAX || depth == 0 {
                let why = format!("more than {NODES_MAX} nodes, or functions {DEPTH_MAX} deep");
                return Err(step.problem(Reason::form(why)).into());
            }
            let functions = self.functions;
            let called = functions
                .iter()
                .find(|f| f.name == step.node.operator && f.domain == step.node.domain);
            match called {
                Some(function) => {
                    self.calls += 1;
                    let body = body(function, &step.node, self.calls);
                    let opset = version(&function.opsets).unwrap_or(opset);
                    self.nodes(body, opset, depth - 1)?;
                }
                None => self.steps.push(step),
            }
        }
        Ok(())
    }
}

/// Returns the nodes of a function with the caller's values and attributes in place.
fn body(function: &Function, caller: &Node, call: usize) -> Vec<Node> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for (inner, outer) in function.inputs.iter().zip(&caller.inputs) {
        names.insert(inner, outer);
    }
    for (inner, outer) in function.outputs.iter().zip(&caller.outputs) {
        if !outer.is_empty() {
            names.insert(inner, outer);
        }
    }
    // An operand that the caller leaves out is absent inside, too.
    for inner in function.inputs.iter().skip(caller.inputs.len()) {
        names.insert(inner, "");
    }
    let rename = |name: &String| match names.get(name.as_str()) {
        _ if name.is_empty() => String::new(),
        Some(outer) => (*outer).to_owned(),
        None => format!("{}#{call}/{name}", function.name),
    };
    let nodes = function.nodes.iter().map(|node| Node {
        inputs: node.inputs.iter().map(rename).collect(),
        outputs: node.outputs.iter().map(rename).collect(),
        name: format!("{}#{call}/{}", function.name, node.name),
        attributes: node.attributes.iter().filter_map(|a| bound(a, function, caller)).collect(),
        operator: node.operator.clone(),
        domain: node.domain.clone(),
    });
    nodes.collect()
}

/// Puts the caller's attribute in place of a reference; one that neither caller nor function gives is absent.
fn bound(attribute: &Attribute, function: &Function, caller: &Node) -> Option<Attribute> {
    if attribute.reference.is_empty() {
        return Some(attribute.clone());
    }
    let mut given = caller.attributes.iter().chain(&function.defaults);
    let value = given.find(|a| a.name == attribute.reference)?;
    Some(Attribute { name: attribute.name.clone(), ..value.clone() })
}

/// Returns the names that a node reads, within its subgraphs too.
fn reads(node: &Node) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        names.extend(node.inputs.iter().map(String::as_str).filter(|n| !n.is_empty()));
        for attribute in &node.attributes {
            let graphs: Vec<&Graph> = attribute.graph.iter().chain(&attribute.graphs).collect();
            names.extend(graphs.iter().flat_map(|g| g.outputs.iter().map(|o| o.name.as_str())));
            nodes.extend(graphs.iter().flat_map(|g| &g.nodes));
        }
    }
    names
}

/// Keeps the steps that `wanted` need, each after what it reads; the file's order decides where it is free.
///
/// *Errors*: two nodes make one value, or nodes wait for each other.
pub(super) fn order(steps: Vec<Step>, wanted: &[&str]) -> Result<Vec<Step>, Box<Problem>> {
    let mut makers: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        for name in step.node.outputs.iter().filter(|n| !n.is_empty()) {
            if makers.insert(name, at).is_some() {
                let why = format!("`{name}` is made twice");
                return Err(step.problem(Reason::malformed(why)).into());
            }
        }
    }
    let mut kept: BTreeSet<usize> = BTreeSet::new();
    let mut waiting: Vec<usize> = wanted.iter().filter_map(|n| makers.get(n).copied()).collect();
    while let Some(at) = waiting.pop() {
        if kept.insert(at) {
            waiting.extend(reads(&steps[at].node).iter().filter_map(|n| makers.get(n).copied()));
        }
    }
    let mut open: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut users: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in &kept {
        let needs: BTreeSet<usize> =
            reads(&steps[*at].node).iter().filter_map(|n| makers.get(n).copied()).collect();
        for need in &needs {
            users.entry(*need).or_default().push(*at);
        }
        open.insert(*at, needs);
    }
    let mut ready: BTreeSet<usize> =
        open.iter().filter(|(_, needs)| needs.is_empty()).map(|(at, _)| *at).collect();
    let mut sorted = Vec::with_capacity(kept.len());
    while let Some(at) = ready.pop_first() {
        open.remove(&at);
        sorted.push(at);
        for user in users.get(&at).into_iter().flatten() {
            if let Some(needs) = open.get_mut(user) {
                needs.remove(&at);
                if needs.is_empty() {
                    ready.insert(*user);
                }
            }
        }
    }
    if let Some(at) = open.keys().next() {
        let reason = Reason::malformed("it waits for its own result");
        return Err(steps[*at].problem(reason).into());
    }
    let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    Ok(sorted.into_iter().filter_map(|at| steps[at].take()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Node {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Node {
            operator: operator.into(),
            inputs: owned(inputs),
            outputs: owned(outputs),
            ..Node::default()
        }
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(Step::name).collect()
    }

    #[test]
    fn steps_come_after_what_they_read_and_only_if_needed() {
        let nodes = vec![
            node("Relu", &["b"], &["c"]),
            node("Relu", &["x"], &["unused"]),
            node("Relu", &["a"], &["b"]),
            node("Relu", &["x"], &["a"]),
        ];
        let steps = expand(nodes, 17, &[]).unwrap();
        assert_eq!(names(&order(steps, &["c"]).unwrap()), ["a", "b", "c"]);
    }

    #[test]
    fn circles_and_values_made_twice_are_refused() {
        let circle = vec![node("Relu", &["b"], &["a"]), node("Relu", &["a"], &["b"])];
        assert!(order(expand(circle, 17, &[]).unwrap(), &["b"]).is_err());
        let twice = vec![node("Relu", &["x"], &["a"]), node("Relu", &["x"], &["a"])];
        assert!(order(expand(twice, 17, &[]).unwrap(), &["a"]).is_err());
    }

    #[test]
    fn functions_are_expanded_and_may_not_call_themselves() {
        let inner = |body: Vec<Node>| Function {
            name: "Twice".into(),
            domain: "mine".into(),
            inputs: vec!["x".into()],
            outputs: vec!["y".into()],
            nodes: body,
            ..Function::default()
        };
        let call = Node { domain: "mine".into(), ..node("Twice", &["in"], &["out"]) };
        let body = vec![node("Relu", &["x"], &["t"]), node("Neg", &["t"], &["y"])];
        let steps = expand(vec![call.clone()], 17, &[inner(body)]).unwrap();
        assert_eq!(steps[0].node.inputs, ["in"]);
        assert_eq!(steps[1].node.outputs, ["out"]);
        assert_eq!(steps[0].node.outputs, steps[1].node.inputs);
        let itself = Node { domain: "mine".into(), ..node("Twice", &["x"], &["y"]) };
        assert!(expand(vec![call], 17, &[inner(vec![itself.clone(), itself])]).is_err());
    }
}
