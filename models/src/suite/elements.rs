//! Cases of functions of one number: unary operators, activations, and the compositions of `compose::elements`.

use wattle_protocol::dag::Op;
use wattle_protocol::dag::compose::elements;
use wattle_protocol::dag::op::{Gelu, Unary};

use super::{Case, above, built, floats, ids, list, op, range, x};

/// A few elements on three axes.
const ROW: [usize; 3] = [2, 3, 4];
/// No multiple of any vector's width.
const ODD: [usize; 2] = [7, 33];
/// Beyond what one thread takes at a time.
const LARGER: [usize; 2] = [129, 65];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = unary_cases();
    cases.extend(edge_cases());
    cases.extend(activation_cases());
    cases.extend(composed_cases());
    cases
}

/// Each function where it is smooth, on two shapes.
fn unary_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for function in Unary::ALL {
        let operand = |shape: &[usize]| match function {
            Unary::Log | Unary::Sqrt => above(shape),
            Unary::Asin | Unary::Acos => range(-0.95, 0.95, shape),
            Unary::Floor | Unary::Ceil | Unary::Round => range(-3.3, 3.4, shape),
            Unary::Exp | Unary::Tanh | Unary::Sigmoid | Unary::Sin | Unary::Cos => x(shape),
            Unary::Atan | Unary::Erf | Unary::Abs | Unary::Sign => x(shape),
        };
        for (name, shape) in [("row", &ROW[..]), ("odd", &ODD[..]), ("larger", &LARGER[..])] {
            let case = op(name, Op::Unary(function), [operand(shape)]);
            let is_step =
                matches!(function, Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round);
            cases.push(if is_step || name != "row" { case.rough() } else { case });
        }
    }
    cases
}

/// Far out, at jumps, and where results are infinite or no numbers.
fn edge_cases() -> Vec<Case> {
    let f = Op::Unary;
    let far = || list(&[-80.0, -30.0, -9.5, -3.0, -1e-3, 1e-6, 0.25, 5.0, 11.0, 40.0, 80.0]);
    let halves = || list(&[-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 0.500_000_06, 0.499_999_97, 1e7]);
    let mut cases = vec![
        // The global norm of a gradient is summed in f32 on a GPU, so its elements stay below 1e19.
        op("far", f(Unary::Exp), [list(&[-80.0, -30.0, -1e-3, 1e-6, 11.0, 40.0])])
            .rough()
            .each(1e-30),
        // The derivatives are made from results, which are rounded where they come close to 1.
        op("far", f(Unary::Tanh), [far()]).rough().each(1e-2).within(5e-5),
        op("far", f(Unary::Sigmoid), [far()]).rough().each(1e-2).within(5e-5),
        op("far", f(Unary::Erf), [far()]).rough().each(1e-2).within(5e-5),
        op("far", f(Unary::Atan), [far()]).rough().each(1e-6),
        op("far", f(Unary::Sin), [far()]).rough(),
        op("far", f(Unary::Cos), [far()]).rough(),
        op("near 0 and far", f(Unary::Log), [list(&[1e-15, 1e-6, 0.99, 1.0, 1.01, 7.0, 1e30])])
            .rough()
            .each(1e-6),
        op("near 0 and far", f(Unary::Sqrt), [list(&[1e-30, 1e-6, 0.25, 1.0, 2.0, 1e6, 1e30])])
            .rough()
            .each(1e-20),
        op("near 1", f(Unary::Asin), [list(&[-0.9999, -0.99, 0.0, 0.5, 0.99, 0.9999])]).rough(),
        op("near 1", f(Unary::Acos), [list(&[-0.9999, -0.99, 0.0, 0.5, 0.99, 0.9999])]).rough(),
        op("halves", f(Unary::Round), [halves()]).rough(),
        op("halves", f(Unary::Floor), [halves()]).rough(),
        op("halves", f(Unary::Ceil), [halves()]).rough(),
        op("at 0", f(Unary::Sign), [list(&[-2.0, 0.0, 3.0])]).rough(),
        op("at 0", f(Unary::Abs), [list(&[-2.0, 0.0, 3.0])]).rough(),
        op("outside", f(Unary::Log), [list(&[0.0, -1.0])]).edges(),
        op("outside", f(Unary::Sqrt), [list(&[0.0, -1.0])]).edges(),
        op("outside", f(Unary::Asin), [list(&[1.0, -1.0, 1.5])]).edges(),
        op("outside", f(Unary::Acos), [list(&[1.0, -1.0, 1.5])]).edges(),
        op("overflow", f(Unary::Exp), [list(&[100.0, 89.0, -104.0, -200.0])]).edges(),
    ];
    for function in Unary::ALL {
        cases.push(infinite(function.name(), Op::Unary(function)));
    }
    cases.extend([
        infinite("relu", Op::Relu),
        infinite("gelu", Op::Gelu(Gelu::Tanh)),
        infinite("reduce_max", Op::ReduceMax { axes: vec![0], keep: false }),
        infinite("reduce_sum", Op::ReduceSum { axes: vec![0], keep: false }),
        infinite("softmax", Op::Softmax { axis: 0 }),
        infinite("cum_sum", Op::CumSum { axis: 0, exclusive: false, reverse: false }),
        infinite("top_k", Op::TopK { axis: 0, k: 3, smallest: false }),
    ]);
    cases
}

/// An operator on what a literal cannot hold: infinities and no number.
fn infinite(row: &str, operator: Op) -> Case {
    built(row, "infinite", [list(&[1.0, -1.0, 0.0])], move |s, p| {
        let zero = s.number(0.0)?;
        let x = s.div(p[0], zero)?;
        s.op(operator.clone(), &[x])
    })
    .edges()
}

fn activation_cases() -> Vec<Case> {
    let far = || range(-30.0, 30.0, &ODD);
    let dropout = |name, rate, stream| op(name, Op::Dropout { rate, stream }, [x(&ROW)]);
    vec![
        op("row", Op::Relu, [x(&ROW)]),
        op("odd", Op::Relu, [x(&ODD)]).rough(),
        op("at 0", Op::Relu, [list(&[-1.0, 0.0, 2.0])]).rough(),
        op("tanh row", Op::Gelu(Gelu::Tanh), [x(&ROW)]),
        op("erf row", Op::Gelu(Gelu::Erf), [x(&ROW)]),
        op("tanh odd", Op::Gelu(Gelu::Tanh), [x(&ODD)]).rough(),
        op("erf odd", Op::Gelu(Gelu::Erf), [x(&ODD)]).rough(),
        op("tanh larger", Op::Gelu(Gelu::Tanh), [x(&LARGER)]).rough(),
        op("erf larger", Op::Gelu(Gelu::Erf), [x(&LARGER)]).rough(),
        op("tanh far", Op::Gelu(Gelu::Tanh), [far()]).rough(),
        op("erf far", Op::Gelu(Gelu::Erf), [far()]).rough(),
        dropout("a third", 0.3, 1),
        dropout("none", 0.0, 2),
    ]
}

fn composed_cases() -> Vec<Case> {
    let far = || range(-60.0, 60.0, &ODD);
    let image = [2, 3, 5];
    vec![
        built("elements::silu", "row", [x(&ROW)], |s, p| elements::silu(s, p[0])),
        built("elements::silu", "far", [far()], |s, p| elements::silu(s, p[0])).rough(),
        built("elements::softplus", "row", [x(&ROW)], |s, p| elements::softplus(s, p[0])),
        built("elements::softplus", "far", [far()], |s, p| elements::softplus(s, p[0])).rough(),
        built("elements::mish", "row", [x(&ROW)], |s, p| elements::mish(s, p[0])),
        built("elements::mish", "far", [far()], |s, p| elements::mish(s, p[0])).rough(),
        built("elements::leaky_relu", "row", [x(&ROW)], |s, p| elements::leaky_relu(s, p[0], 0.1)),
        built("elements::elu", "row", [x(&ROW)], |s, p| elements::elu(s, p[0], 1.0)),
        built("elements::elu", "half", [x(&ROW)], |s, p| elements::elu(s, p[0], 0.5)),
        built("elements::elu", "far", [far()], |s, p| elements::elu(s, p[0], 1.0)).rough(),
        built("elements::clamp", "both", [x(&ROW)], |s, p| {
            elements::clamp(s, p[0], Some(-0.51), Some(0.75))
        })
        .rough(),
        built("elements::clamp", "least", [x(&ROW)], |s, p| {
            elements::clamp(s, p[0], Some(-0.51), None)
        })
        .rough(),
        built("elements::clamp", "most", [x(&ROW)], |s, p| {
            elements::clamp(s, p[0], None, Some(0.75))
        })
        .rough(),
        built("elements::norm", "inner", [x(&image)], |s, p| elements::norm(s, p[0], &[1], false)),
        built("elements::norm", "all kept", [x(&image)], |s, p| {
            elements::norm(s, p[0], &[0, 1, 2], true)
        }),
        built(
            "elements::norm",
            "of zeros",
            [floats(&[0.0, 0.0, 0.0, 3.0, -4.0, 0.0], &[2, 3])],
            |s, p| elements::norm(s, p[0], &[1], false),
        )
        .rough(),
        built("elements::constant", "row", [x(&ROW)], |s, p| {
            let held = elements::constant(s, p[0])?;
            s.mul(p[0], held)
        })
        .rough(),
        built("elements::constant", "far", [list(&[-1e18, -1.5, -1e-9, 0.0, 1e-11, 0.1, 1e19])], {
            |s, p| elements::constant(s, p[0])
        })
        .rough()
        .each(1e-30),
        built("elements::one_hot", "rows", [ids(5, &[2, 3])], |s, p| elements::one_hot(s, p[0], 5)),
    ]
}
