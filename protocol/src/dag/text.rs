//! Readable dump of a Dag, and its parse: the round trip is exact.
//!
//! ```text
//! dag tiny
//! %0 x: f32[8,4] = input
//! %1 w: f32[4,2] = parameter{init=normal(0.02), decay=true}
//! %2 fc: f32[8,2] = linear(%0, %1)
//! %3 loss: f32[] = reduce_mean{axes=[0,1], keep=false}(%2)
//! output %3
//! ```
//!
//! A node whose name does not follow from its results' names adds `as name`; `update %buffer <- %from * momentum`
//! stands after the nodes. Names with other characters than letters, digits and `._/#@'+-~` are quoted. Empty lines and
//! lines that begin with `#` are skipped. What comes out of [`parse`] has been checked like any stranger's Dag.

mod attributes;
mod cursor;

use std::fmt::Write;

use self::cursor::Cursor;
use super::build::result_names;
use super::{BufferUpdate, Dag, DagError, Fact, Init, Node, Op, Source, Value};
use crate::ids::{NodeId, ValueId};

/// Why a text is no Dag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line does not read as it should.
    #[error("line {line}: expected {expected} at `{found}`")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The lines read well but make no valid Dag.
    #[error("the text is not a valid network: {0}")]
    Dag(#[from] DagError),
}

/// Returns the names of an operator's settings, as dumps spell them.
pub fn settings(op: &Op) -> Vec<&'static str> {
    attributes::of(op).into_iter().map(|(name, _)| name).collect()
}

/// Returns the dump of a Dag.
pub fn to_text(dag: &Dag) -> String {
    let mut text = format!("dag {}\n", quoted(&dag.name));
    for (id, value) in dag.value_ids().zip(&dag.values) {
        match value.source {
            Source::Node { node, slot: 0 } => write_node(&mut text, dag, dag.node(node)),
            Source::Node { .. } => {}
            Source::Input => write_leaf(&mut text, dag, id, "input"),
            Source::Parameter { init, decay } => {
                let source = format!("parameter{{init={}, decay={decay}}}", init_text(init));
                write_leaf(&mut text, dag, id, &source);
            }
            Source::Buffer { init } => {
                write_leaf(&mut text, dag, id, &format!("buffer{{init={}}}", init_text(init)));
            }
        }
    }
    for update in &dag.updates {
        let (buffer, from) = (update.buffer.index(), update.from.index());
        push(&mut text, format_args!("update %{buffer} <- %{from} * {:?}\n", update.momentum));
    }
    for output in &dag.outputs {
        push(&mut text, format_args!("output %{}\n", output.index()));
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing to a string cannot fail");
}

fn result_text(dag: &Dag, id: ValueId) -> String {
    let value = dag.value(id);
    format!("%{} {}: {}", id.index(), quoted(&value.name), value.fact)
}

fn write_leaf(text: &mut String, dag: &Dag, id: ValueId, source: &str) {
    push(text, format_args!("{} = {source}\n", result_text(dag, id)));
}

fn write_node(text: &mut String, dag: &Dag, node: &Node) {
    let results: Vec<String> = node.outputs.iter().map(|id| result_text(dag, *id)).collect();
    let operands: Vec<String> = node.inputs.iter().map(|id| format!("%{}", id.index())).collect();
    let attributes: Vec<String> =
        attributes::of(&node.op).iter().map(|(key, value)| format!("{key}={value}")).collect();
    let attributes = match attributes.as_slice() {
        [] => String::new(),
        list => format!("{{{}}}", list.join(", ")),
    };
    let (results, operands) = (results.join(", "), operands.join(", "));
    push(text, format_args!("{results} = {}{attributes}({operands})", node.op.name()));
    let names = node.outputs.iter().map(|id| dag.value(*id).name.as_str());
    if node_name(&names.collect::<Vec<_>>()).as_deref() != Some(node.name.as_str()) {
        push(text, format_args!(" as {}", quoted(&node.name)));
    }
    text.push('\n');
}

/// Returns the name that a node has if its results are named after it.
fn node_name(results: &[&str]) -> Option<String> {
    let name = match results {
        [only] => only,
        [first, ..] => first.strip_suffix("#0")?,
        [] => return None,
    };
    (result_names(name, results.len()) == results).then(|| name.to_owned())
}

fn init_text(init: Init) -> String {
    match init {
        Init::Constant(number) => format!("constant({number:?})"),
        Init::Normal(number) => format!("normal({number:?})"),
        Init::Uniform(number) => format!("uniform({number:?})"),
    }
}

fn quoted(name: &str) -> String {
    if !name.is_empty() && name.chars().all(cursor::is_plain) {
        return name.to_owned();
    }
    let escaped = name.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => c.escape_unicode().to_string(),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Reads a dump.
///
/// *Errors*: [`TextError`], with the line of a syntax error. Never panics.
pub fn parse(text: &str) -> Result<Dag, TextError> {
    let mut dag: Option<Dag> = None;
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let mut cursor = Cursor::new(line, content);
        match &mut dag {
            None => dag = Some(parse_head(&mut cursor)?),
            Some(dag) => parse_line(&mut cursor, dag)?,
        }
        cursor.end()?;
    }
    let empty = || TextError::Syntax {
        line: text.lines().count(),
        expected: "a line `dag NAME`".into(),
        found: "the end".into(),
    };
    Ok(dag.ok_or_else(empty)?.checked()?)
}

fn parse_head(cursor: &mut Cursor<'_>) -> Result<Dag, TextError> {
    cursor.expect("dag")?;
    Ok(Dag {
        name: cursor.name()?,
        values: Vec::new(),
        nodes: Vec::new(),
        outputs: Vec::new(),
        updates: Vec::new(),
    })
}

fn parse_line(cursor: &mut Cursor<'_>, dag: &mut Dag) -> Result<(), TextError> {
    if cursor.eat("output") {
        dag.outputs.push(cursor.value()?);
        return Ok(());
    }
    if cursor.eat("update") {
        let buffer = cursor.value()?;
        cursor.expect("<-")?;
        let from = cursor.value()?;
        cursor.expect("*")?;
        let momentum = cursor.number()?;
        dag.updates.push(BufferUpdate { buffer, from, momentum });
        return Ok(());
    }
    let mut results = vec![parse_result(cursor, dag.values.len())?];
    while cursor.eat(",") {
        results.push(parse_result(cursor, dag.values.len() + results.len())?);
    }
    cursor.expect("=")?;
    let word = cursor.word()?;
    let mut attributes = cursor.attributes()?;
    match (word, results.len()) {
        ("input", 1) => add_leaf(dag, results, Source::Input),
        ("parameter", 1) => {
            let (init, decay) =
                (attributes.take("init", cursor)?, attributes.take("decay", cursor)?);
            add_leaf(dag, results, Source::Parameter { init, decay });
        }
        ("buffer", 1) => {
            let init = attributes.take("init", cursor)?;
            add_leaf(dag, results, Source::Buffer { init });
        }
        _ => {
            let op = attributes::parse(word, &mut attributes, cursor)?;
            let inputs = cursor.operands()?;
            let names: Vec<&str> = results.iter().map(|(name, _)| name.as_str()).collect();
            let name = match cursor.eat("as") {
                true => cursor.name()?,
                false => {
                    node_name(&names).ok_or_else(|| cursor.error("`as` and the node's name"))?
                }
            };
            let node = u32::try_from(dag.nodes.len()).map(NodeId::new);
            let node = node.map_err(|_| DagError::TooLarge)?;
            let mut outputs = Vec::new();
            for (slot, (name, fact)) in results.into_iter().enumerate() {
                let id = u32::try_from(dag.values.len()).map_err(|_| DagError::TooLarge)?;
                let slot = u8::try_from(slot).map_err(|_| DagError::TooLarge)?;
                outputs.push(ValueId::new(id));
                dag.values.push(Value { name, fact, source: Source::Node { node, slot } });
            }
            dag.nodes.push(Node { name, op, inputs, outputs });
        }
    }
    attributes.end(cursor)
}

fn add_leaf(dag: &mut Dag, results: Vec<(String, Fact)>, source: Source) {
    dag.values.extend(results.into_iter().map(|(name, fact)| Value { name, fact, source }));
}

fn parse_result(cursor: &mut Cursor<'_>, expected: usize) -> Result<(String, Fact), TextError> {
    let error = cursor.error(&format!("value %{expected}, the next one"));
    if cursor.value()?.index() != expected {
        return Err(error);
    }
    let name = cursor.name()?;
    cursor.expect(":")?;
    Ok((name, cursor.fact()?))
}

#[cfg(test)]
mod tests {
    use super::super::DagBuilder;
    use super::super::op::{Conv2d, Gelu, Targets};
    use super::*;

    const TINY: &str = "\
dag tiny
%0 x: f32[8,4] = input
%1 w: f32[4,2] = parameter{init=normal(0.02), decay=true}
%2 \"running mean\": f32[2] = buffer{init=constant(0.0)}
%3 fc: f32[8,2] = linear(%0, %1)
%4 mean: f32[2] = reduce_mean{axes=[0], keep=false}(%3) as statistics
%5 loss: f32[] = reduce_mean{axes=[0,1], keep=false}(%3)
update %2 <- %4 * 0.1
output %5
";

    #[test]
    fn a_dump_reads_back_as_it_was_written() {
        assert_eq!(to_text(&parse(TINY).unwrap()), TINY);
    }

    #[test]
    fn a_small_network_reads_as_recorded() {
        let mut b = DagBuilder::new("small one");
        let x = b.input("x", Fact::f32(&[2, 3, 8, 8]));
        let labels = b.input("labels", Fact::i32(&[2]));
        let w = b.parameter("conv.weight", &[4, 3, 3, 3], Init::Uniform(0.2), true);
        let [gain, bias] = [("norm.weight", 1.0), ("norm.bias", 0.0)]
            .map(|(name, start)| b.parameter(name, &[4], Init::Constant(start), false));
        let mean = b.buffer("norm.running mean", &[4], Init::Constant(0.0));
        let conv = Conv2d { stride: [2; 2], padding: [1; 2], dilation: [1; 2], groups: 1 };
        let y = b.op("conv", Op::Conv2d(conv), &[x, w]).unwrap();
        let norm = b.apply("norm", Op::BatchNorm { eps: 1e-5 }, &[y, gain, bias]).unwrap();
        b.update(mean, norm[1], 0.1).unwrap();
        let y = b.op("act", Op::Gelu(Gelu::Tanh), &[norm[0]]).unwrap();
        let y = b.op("pool", Op::ReduceMean { axes: vec![2, 3], keep: false }, &[y]).unwrap();
        let loss = b.op("loss", Op::CrossEntropy(Targets::default()), &[y, labels]).unwrap();
        b.output(loss);
        b.output(y);
        let text = to_text(&b.finish().unwrap());
        insta::assert_snapshot!(text, @r#"
        dag "small one"
        %0 x: f32[2,3,8,8] = input
        %1 labels: i32[2] = input
        %2 conv.weight: f32[4,3,3,3] = parameter{init=uniform(0.2), decay=true}
        %3 norm.weight: f32[4] = parameter{init=constant(1.0), decay=false}
        %4 norm.bias: f32[4] = parameter{init=constant(0.0), decay=false}
        %5 "norm.running mean": f32[4] = buffer{init=constant(0.0)}
        %6 conv: f32[2,4,4,4] = conv2d{stride=[2,2], padding=[1,1], dilation=[1,1], groups=1}(%0, %2)
        %7 norm#0: f32[2,4,4,4], %8 norm#1: f32[4], %9 norm#2: f32[4] = batch_norm{eps=1e-5}(%6, %3, %4)
        %10 act: f32[2,4,4,4] = gelu{form=tanh}(%7)
        %11 pool: f32[2,4] = reduce_mean{axes=[2,3], keep=false}(%10)
        %12 loss: f32[] = cross_entropy(%11, %1)
        update %5 <- %8 * 0.1
        output %12
        output %11
        "#);
        assert_eq!(to_text(&parse(&text).unwrap()), text);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let check = |from: &str, to: &str, line: usize| {
            let error = parse(&TINY.replace(from, to)).unwrap_err();
            assert!(matches!(error, TextError::Syntax { line: l, .. } if l == line), "{error}");
        };
        check("dag tiny", "graph tiny", 1);
        check("%1 w", "%7 w", 3);
        check("decay=true", "decay=maybe", 3);
        check("linear(", "linea(", 5);
        check("axes=[0], ", "", 6);
        check("keep=false}(%3) as", "keep=false, twice=true}(%3) as", 6);
        check("* 0.1", "* much", 8);
        assert!(matches!(parse(&TINY.replace("f32[8,2]", "f32[8,3]")), Err(TextError::Dag(_))));
        assert!(matches!(parse(""), Err(TextError::Syntax { .. })));
    }
}
