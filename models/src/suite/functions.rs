//! Cases of functions of two numbers and more: arithmetic, comparisons, choices, casts.

use wattle_protocol::dag::op::{Binary, Comparison, Unary};
use wattle_protocol::dag::{Dtype, Op};

use super::{Case, above, built, floats, ids, ints, list, op, range, whole, x};

const ROW: [usize; 3] = [2, 3, 4];

/// Returns all cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = arithmetic_cases();
    cases.extend(integer_cases());
    cases.extend(binary_cases());
    cases.extend(choice_cases());
    cases.extend(infinite_cases());
    cases
}

fn arithmetic_cases() -> Vec<Case> {
    let operators = [("add", Op::Add), ("sub", Op::Sub), ("mul", Op::Mul), ("div", Op::Div)];
    let mut cases = Vec::new();
    for (row, operator) in operators {
        // A divisor stays away from zero.
        let second = |shape: &[usize]| if row == "div" { above(shape) } else { x(shape) };
        let shapes: [(&'static str, &[usize], &[usize]); 9] = [
            ("alike", &ROW, &ROW),
            ("last axis", &ROW, &[4]),
            ("middle axis", &ROW, &[3, 1]),
            ("both stretch", &[2, 1, 4], &[3, 1]),
            ("scalar", &ROW, &[]),
            ("two scalars", &[], &[]),
            ("odd", &[7, 33], &[7, 33]),
            ("larger", &[129, 65], &[129, 65]),
            ("larger, last axis", &[129, 65], &[65]),
        ];
        for (name, a, b) in shapes {
            let case = op(name, operator.clone(), [x(a), second(b)]);
            let is_large = a.iter().product::<usize>() > 24;
            cases.push(if is_large { case.rough() } else { case });
        }
    }
    cases.push(op("by zero", Op::Div, [list(&[1.0, -1.0, 0.0]), list(&[0.0; 3])]).edges());
    cases.extend([
        op("row", Op::Scale { factor: -1.5 }, [x(&ROW)]),
        op("row", Op::Shift { term: 2.0 }, [x(&ROW)]),
        op("one", Op::AddN, [x(&ROW)]),
        op("three", Op::AddN, [x(&ROW), x(&ROW), x(&ROW)]),
    ]);
    cases
}

/// Operators that combine integers too.
fn integer_cases() -> Vec<Case> {
    let numbers = || whole(-9, 10, &ROW);
    let other = || ints(&[3, -2, 7, 1], &[4]);
    let binary = |function| Op::Binary(function);
    vec![
        op("integers", Op::Add, [numbers(), other()]),
        op("integers", Op::Sub, [numbers(), other()]),
        op("integers", Op::Mul, [numbers(), other()]),
        op("integers", Op::Div, [numbers(), other()]),
        op("integers", binary(Binary::Max), [numbers(), other()]),
        op("integers", binary(Binary::Min), [numbers(), other()]),
        op("integers", binary(Binary::Remainder), [numbers(), other()]),
        op("integers", Op::Compare(Comparison::Equal), [whole(0, 3, &ROW), whole(0, 3, &[4])]),
        op("integers", Op::Compare(Comparison::Less), [whole(0, 3, &ROW), whole(0, 3, &[4])]),
        op("integers", Op::Compare(Comparison::LessEqual), [whole(0, 3, &ROW), whole(0, 3, &[4])]),
        op("integers", Op::Where, [ids(2, &[3, 1]), numbers(), other()]),
        op(
            "to integers",
            Op::Cast { dtype: Dtype::I32 },
            [list(&[1.7, -1.7, 0.5, -0.5, 3.0, 100.25, 0.999_999_94, -7.0]).fixed()],
        ),
        op("to floats", Op::Cast { dtype: Dtype::F32 }, [numbers()]),
        op("alike", Op::Cast { dtype: Dtype::F32 }, [x(&ROW)]),
    ]
}

fn binary_cases() -> Vec<Case> {
    let binary = |function| Op::Binary(function);
    let bases = [-2.0, -1.5, 0.7, 3.0, 0.0, 0.0, -1.0, 2.0];
    let exponents = [2.0, 3.0, 0.5, -1.0, 2.0, 0.0, 0.0, 1.0];
    vec![
        op("positive", binary(Binary::Pow), [above(&ROW), x(&[4])]),
        op("both stretch", binary(Binary::Pow), [above(&[2, 1, 4]), x(&[3, 1])]),
        op("whole exponents", binary(Binary::Pow), [list(&bases), list(&exponents).fixed()])
            .rough()
            .on_hosts(),
        op(
            "edges",
            binary(Binary::Pow),
            [list(&[-2.0, 0.0, 0.0, 10.0, 10.0]), list(&[0.5, -1.0, 0.0, 50.0, -50.0])],
        )
        .edges(),
        op("middle axis", binary(Binary::Max), [x(&ROW), x(&[3, 1])]).rough(),
        op("middle axis", binary(Binary::Min), [x(&ROW), x(&[3, 1])]).rough(),
        op("odd", binary(Binary::Max), [x(&[7, 33]), x(&[7, 33])]).rough(),
        op("odd", binary(Binary::Min), [x(&[7, 33]), x(&[7, 33])]).rough(),
        op("all quarters", binary(Binary::Atan2), [x(&ROW), x(&ROW)]).rough(),
        op("above", binary(Binary::Atan2), [above(&ROW), above(&[4])]),
        op(
            "on axes",
            binary(Binary::Atan2),
            [list(&[0.0, 0.0, 1.0, -1.0]), list(&[1.0, -1.0, 0.0, 0.0])],
        )
        .rough()
        .on_hosts(),
        op("positive", binary(Binary::Remainder), [range(-5.0, 5.0, &ROW), range(0.4, 1.7, &[4])])
            .rough(),
        op(
            "negative",
            binary(Binary::Remainder),
            [range(-5.0, 5.0, &ROW), range(-1.7, -0.4, &[3, 1])],
        )
        .rough(),
        op("small", binary(Binary::Remainder), [range(0.9, 1.1, &ROW), range(0.39, 0.44, &ROW)]),
    ]
}

/// An infinity, a number and no number, in both places.
fn infinite_cases() -> Vec<Case> {
    let functions = [Binary::Max, Binary::Min].map(Op::Binary).into_iter();
    let all = functions.chain(Comparison::ALL.map(Op::Compare));
    let one = |operator: Op| {
        let operands = [list(&[1.0, -1.0, 0.0]), floats(&[1.0, 0.0, 0.5, 0.0], &[4, 1])];
        let row = operator.name();
        built(row, "infinite", operands, move |s, p| {
            let zero = s.number(0.0)?;
            let a = s.div(p[0], zero)?;
            // 1, no number, 1/2 and no number.
            let root = s.unary(Unary::Log, p[1])?;
            let whole = s.mul(root, zero)?;
            let b = s.add(p[1], whole)?;
            s.op(operator.clone(), &[a, b])
        })
        .edges()
    };
    all.map(one).collect()
}

fn choice_cases() -> Vec<Case> {
    let twice = || floats(&[0.5, -1.0, 0.5, 2.0, 0.0, -1.0], &[2, 3]).fixed();
    let row = || list(&[0.5, -1.0, 2.0]).fixed();
    vec![
        op("floats", Op::Compare(Comparison::Equal), [twice(), row()]),
        op("floats", Op::Compare(Comparison::Less), [twice(), row()]),
        op("floats", Op::Compare(Comparison::LessEqual), [twice(), row()]),
        op("floats", Op::Where, [ids(2, &ROW), x(&ROW), x(&ROW)]),
        op("stretched", Op::Where, [ids(2, &[3, 1]), x(&[2, 1, 4]), x(&[4])]),
        op("other masks", Op::Where, [ints(&[0, 2, -1], &[3, 1]), x(&ROW), x(&ROW)]),
        built("where", "by comparison", [x(&ROW), x(&[4])], |s, p| {
            let mask = s.compare(Comparison::Less, p[0], p[1])?;
            s.choose(mask, p[0], p[1])
        })
        .rough(),
    ]
}
