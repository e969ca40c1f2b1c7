//! The loss curve: the swarm's losses, the single process's, the unigram entropy, and the moments of faults.

use std::fmt::{self, Write as _};

use super::Escaped;

/// What the curve shows.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Step and loss of the swarm.
    pub losses: Vec<(u64, f64)>,
    /// Step and loss of the single process.
    pub reference: Vec<(u64, f64)>,
    /// A level to compare with: name and nats.
    pub level: Option<(String, f64)>,
    /// Steps in which something happened, and what.
    pub faults: Vec<(u64, String)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;

/// Draws the curve.
#[expect(
    clippy::too_many_lines,
    reason = "one drawing from its frame to its labels, in the order of the page"
)]
pub fn draw(out: &mut String, curve: &Curve) -> fmt::Result {
    let all = || curve.losses.iter().chain(&curve.reference).map(|p| p.1).filter(|l| l.is_finite());
    let level = curve.level.as_ref().map(|l| l.1);
    let highest = all().chain(level).fold(f64::NEG_INFINITY, f64::max);
    let lowest = all().chain(level).fold(f64::INFINITY, f64::min);
    let last = curve.losses.last().map_or(0, |p| p.0).max(1);
    if !highest.is_finite() {
        out.push_str("<p>No step was done.</p>\n");
        return Ok(());
    }
    let tick = tick_for(highest - lowest);
    let (bottom, top) = ((lowest / tick).floor() * tick, (highest / tick).ceil() * tick);
    let span = (top - bottom).max(tick);
    let x = |step: u64| LEFT + (WIDTH - LEFT - RIGHT) * step as f64 / last as f64;
    let y = |loss: f64| TOP + (HEIGHT - TOP - BOTTOM) * (top - loss) / span;
    writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Loss by step\">"
    )?;
    let mut mark = bottom;
    while mark <= top + tick / 2.0 {
        let at = y(mark);
        writeln!(
            out,
            "<path class=\"rule\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark:.1}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
        )?;
        mark += tick;
    }
    for part in 0..=4 {
        let step = last * part / 4;
        let anchor = if part == 4 { "end" } else { "middle" };
        writeln!(
            out,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}{step}</text>",
            x(step),
            HEIGHT - 12.0,
            if part == 0 { "step " } else { "" },
        )?;
    }
    if let Some((name, nats)) = &curve.level {
        writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{end:.1}\" stroke=\"var(--three)\" stroke-dasharray=\"6 4\"/>\
             <text class=\"halo\" x=\"{end:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{name} {nats:.2}</text>",
            at = y(*nats),
            end = WIDTH - RIGHT,
            text = y(*nats) - 6.0,
            name = Escaped(name),
        )?;
    }
    for (step, what) in &curve.faults {
        let at = x(*step);
        let anchor = if at > WIDTH / 2.0 { "end" } else { "start" };
        writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"var(--bad)\"/>\
             <text class=\"halo\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" style=\"fill:var(--bad)\">{}</text>",
            HEIGHT - BOTTOM,
            if anchor == "end" { at - 6.0 } else { at + 6.0 },
            TOP + 14.0,
            Escaped(what),
        )?;
    }
    let path = |points: &[(u64, f64)]| {
        let mut d = String::new();
        for (place, (step, loss)) in points.iter().filter(|p| p.1.is_finite()).enumerate() {
            let letter = if place == 0 { 'M' } else { 'L' };
            write!(d, "{letter}{:.1} {:.1}", x(*step), y(*loss)).unwrap_or_default();
        }
        d
    };
    let mut legend = LEFT;
    let mut line = |out: &mut String, name: &str, style: &str, points: &[(u64, f64)]| {
        if points.is_empty() {
            return Ok(());
        }
        let d = path(points);
        writeln!(out, "<path class=\"line\" d=\"{d}\" {style}/>")?;
        writeln!(
            out,
            "<path class=\"line\" d=\"M{legend:.1} 14h24\" {style}/><text x=\"{:.1}\" y=\"18\">{name}</text>",
            legend + 30.0,
        )?;
        legend += 150.0;
        Ok(())
    };
    line(
        out,
        "the swarm",
        "stroke=\"var(--one)\" style=\"stroke-width:4\" opacity=\".75\"",
        &curve.losses,
    )?;
    line(out, "one process", "stroke=\"var(--two)\" stroke-dasharray=\"2 3\"", &curve.reference)?;
    out.push_str("</svg>\n");
    Ok(())
}

/// Returns a distance of marks that gives about five of them.
fn tick_for(span: f64) -> f64 {
    let rough = (span / 5.0).max(1e-3);
    let power = 10f64.powf(rough.log10().floor());
    let digit = rough / power;
    power
        * if digit <= 1.0 {
            1.0
        } else if digit <= 2.0 {
            2.0
        } else if digit <= 5.0 {
            5.0
        } else {
            10.0
        }
}
