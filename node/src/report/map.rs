//! The swarm map: peers on a circle, links as lines as wide as what crossed them, the lost ones crossed out.

use std::f64::consts::TAU;
use std::fmt::{self, Write as _};

use super::Escaped;

/// A peer on the map.
#[derive(Clone, Debug, Default)]
pub struct Dot {
    /// Short name.
    pub name: String,
    /// What it did.
    pub detail: String,
    /// Measured speed, in any unit.
    pub speed: f64,
    /// Whether it was killed.
    pub killed: bool,
    /// Whether it led at the end.
    pub leader: bool,
}

/// A link that carried tensors, one way.
#[derive(Clone, Debug, Default)]
pub struct Arrow {
    /// Place of the sender among the dots.
    pub from: usize,
    /// Place of the receiver.
    pub to: usize,
    /// Bytes of tensors.
    pub bytes: u64,
    /// What stands on it: short, since lines cross.
    pub label: String,
    /// What is said of it to whoever points at it.
    pub title: String,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 460.0;
/// Where on its line a link's label stands, from the sender.
const LABEL: f64 = 0.3;

/// Draws the map.
pub fn draw(out: &mut String, dots: &[Dot], arrows: &[Arrow]) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Peers and links\">"
    )?;
    let place = |index: usize| {
        let angle = TAU * index as f64 / dots.len().max(1) as f64 - TAU / 4.0 + TAU / 12.0;
        (WIDTH / 2.0 + 220.0 * angle.cos(), HEIGHT / 2.0 + 170.0 * angle.sin())
    };
    let most = arrows.iter().map(|a| a.bytes).max().unwrap_or(1).max(1) as f64;
    let color = ["var(--one)", "var(--two)", "var(--three)", "var(--four)"];
    for arrow in arrows.iter().filter(|a| a.from < dots.len() && a.to < dots.len()) {
        let ((x0, y0), (x1, y1)) = (place(arrow.from), place(arrow.to));
        // Bent to its own side, so that both directions are seen.
        let (dx, dy) = (x1 - x0, y1 - y0);
        let length = (dx * dx + dy * dy).sqrt().max(1.0);
        let (bx, by) = ((x0 + x1) / 2.0 - dy / length * 34.0, (y0 + y1) / 2.0 + dx / length * 34.0);
        let wide = 1.0 + 7.0 * (arrow.bytes as f64 / most).sqrt();
        writeln!(
            out,
            "<path d=\"M{x0:.1} {y0:.1}Q{bx:.1} {by:.1} {x1:.1} {y1:.1}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{wide:.1}\" opacity=\".55\"><title>{}</title></path>",
            color[arrow.from % color.len()],
            Escaped(&arrow.title),
        )?;
        // Nearer to the sender than to the middle, where lines of other pairs cross.
        let at = |a: f64, b: f64, c: f64| {
            (1.0 - LABEL) * (1.0 - LABEL) * a + 2.0 * LABEL * (1.0 - LABEL) * b + LABEL * LABEL * c
        };
        let (tx, ty) = (at(x0, bx, x1), at(y0, by, y1));
        writeln!(
            out,
            "<text class=\"halo soft\" x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"middle\" style=\"font-size:11px\">{}</text>",
            ty + 4.0,
            Escaped(&arrow.label),
        )?;
    }
    let fastest = dots.iter().map(|d| d.speed).fold(1e-9, f64::max);
    for (index, dot) in dots.iter().enumerate() {
        let (x, y) = place(index);
        let radius = 14.0 + 18.0 * (dot.speed / fastest).max(0.0).sqrt();
        let fill = if dot.killed { "var(--idle)" } else { color[index % color.len()] };
        writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{fill}\" stroke=\"var(--card)\" stroke-width=\"3\"/>"
        )?;
        if dot.killed {
            let r = radius * 0.6;
            writeln!(
                out,
                "<path d=\"M{:.1} {:.1}l{d:.1} {d:.1}m0 -{d:.1}l-{d:.1} {d:.1}\" stroke=\"var(--bad)\" stroke-width=\"4\"/>",
                x - r,
                y - r,
                d = 2.0 * r,
            )?;
        }
        let right = x >= WIDTH / 2.0;
        let (tx, anchor) =
            if right { (x + radius + 8.0, "start") } else { (x - radius - 8.0, "end") };
        writeln!(
            out,
            "<text class=\"halo\" x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" style=\"font-weight:600\">{}{}</text>\
             <text class=\"halo soft\" x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            y - 2.0,
            Escaped(&dot.name),
            if dot.leader { ", leader" } else { "" },
            y + 14.0,
            Escaped(&dot.detail),
        )?;
    }
    out.push_str("</svg></div>\n");
    Ok(())
}
