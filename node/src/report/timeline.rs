//! The pipeline timeline: one row a stage, one bar a piece of work, what lies between is waiting.

use std::fmt::{self, Write as _};

use super::Escaped;

/// A stage's row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Stage and owner.
    pub name: String,
    /// Its work in order.
    pub bars: Vec<Bar>,
}

/// A piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Forward, backward, reduce or optimizer, as an index into the legend.
    pub kind: usize,
    /// Micro-batch, where it belongs to one.
    pub micro_batch: Option<u32>,
    /// From, in milliseconds.
    pub began: f64,
    /// To, in milliseconds.
    pub ended: f64,
}

/// Names of the kinds, in the order of their colors.
pub const KINDS: [&str; 4] = ["forward", "backward", "reduce", "optimizer"];

const WIDTH: f64 = 900.0;
const LEFT: f64 = 130.0;
const ROW: f64 = 40.0;
const TOP: f64 = 34.0;

/// Draws the timeline.
pub fn draw(out: &mut String, rows: &[Row]) -> fmt::Result {
    let bars = || rows.iter().flat_map(|r| &r.bars);
    let first = bars().map(|b| b.began).fold(f64::INFINITY, f64::min);
    let last = bars().map(|b| b.ended).fold(f64::NEG_INFINITY, f64::max);
    if last.partial_cmp(&first).is_none_or(std::cmp::Ordering::is_le) {
        out.push_str("<p>No step was recorded.</p>\n");
        return Ok(());
    }
    let x = |at: f64| LEFT + (WIDTH - LEFT - 10.0) * (at - first) / (last - first);
    let height = TOP + ROW * rows.len() as f64 + 26.0;
    let colors = ["var(--one)", "var(--two)", "var(--three)", "var(--four)"];
    writeln!(
        out,
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Work of each stage over one step\">"
    )?;
    for (kind, name) in KINDS.iter().enumerate() {
        let at = LEFT + 120.0 * kind as f64;
        writeln!(
            out,
            "<rect x=\"{at}\" y=\"6\" width=\"14\" height=\"14\" rx=\"2\" fill=\"{}\"/><text x=\"{}\" y=\"18\">{name}</text>",
            colors[kind],
            at + 20.0,
        )?;
    }
    for (index, row) in rows.iter().enumerate() {
        let top = TOP + ROW * index as f64;
        writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"var(--idle)\"/><text x=\"0\" y=\"{:.1}\">{}</text>",
            top + 4.0,
            WIDTH - LEFT - 10.0,
            ROW - 8.0,
            top + ROW / 2.0 + 4.0,
            Escaped(&row.name),
        )?;
        for bar in &row.bars {
            let (from, to) = (x(bar.began), x(bar.ended));
            let wide = (to - from).max(0.6);
            writeln!(
                out,
                "<rect x=\"{from:.2}\" y=\"{:.1}\" width=\"{wide:.2}\" height=\"{:.1}\" fill=\"{}\" stroke=\"var(--card)\" stroke-width=\".5\"><title>{} {}{:.2} ms</title></rect>",
                top + 4.0,
                ROW - 8.0,
                colors[bar.kind.min(3)],
                KINDS[bar.kind.min(3)],
                bar.micro_batch.map_or(String::new(), |m| format!("of micro-batch {m}: ")),
                bar.ended - bar.began,
            )?;
            if let Some(number) = bar.micro_batch.filter(|_| wide > 11.0) {
                writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"fill:var(--card);font-size:11px\">{number}</text>",
                    from + wide / 2.0,
                    top + ROW / 2.0 + 4.0,
                )?;
            }
        }
    }
    let foot = TOP + ROW * rows.len() as f64 + 16.0;
    for part in 0..=4 {
        let at = first + (last - first) * f64::from(part) / 4.0;
        let anchor = if part == 4 { "end" } else { "start" };
        writeln!(
            out,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{foot:.1}\" text-anchor=\"{anchor}\">{:.0} ms</text>",
            x(at),
            at - first,
        )?;
    }
    out.push_str("</svg></div>\n");
    Ok(())
}
