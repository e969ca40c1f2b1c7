//! A plan as SVG: fences with their peers and the way of the micro-batches, and below it the predicted step.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use wattle_protocol::ids::PeerId;
use wattle_protocol::schedule::Plan;
use wattle_protocol::schedule::account::{Account, Span, Work};
use wattle_protocol::schedule::cluster::fences;
use wattle_protocol::schedule::links::Links;

use super::Swarm;
use crate::report::Escaped;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 190.0;
/// A fence's box: its height, and the room of one peer in it.
const BOX: f64 = 74.0;
const PEER: f64 = 30.0;
/// A row of the timeline.
const ROW: f64 = 16.0;

/// Draws a plan.
pub(super) fn draw(swarm: &Swarm, plan: &Plan, account: &Account) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    write(&mut out, swarm, plan, account).unwrap_or_default();
    out
}

fn write(out: &mut String, swarm: &Swarm, plan: &Plan, account: &Account) -> fmt::Result {
    let adverts: Vec<_> = swarm.adverts.iter().collect();
    let peers: Vec<PeerId> = adverts.iter().map(|a| a.peer).collect();
    let groups = fences(&peers, &Links::of(&adverts));
    let per_row = ((WIDTH - LEFT) / PEER).floor().max(1.0);
    let rows = |group: &Vec<PeerId>| (group.len() as f64 / per_row).ceil();
    let fences_height: f64 = groups.iter().map(|g| BOX + (rows(g) - 1.0) * 40.0).sum();
    let workers: Vec<PeerId> = plan.stages.iter().flat_map(|s| s.workers()).collect();
    let top = 60.0 + fences_height + 50.0;
    let height = top + ROW * workers.len() as f64 + 50.0;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">{} stages on {} of {} peers, {} a step</text>\n\
         <text x=\"10\" y=\"46\" fill=\"#555\">Fences: peers that see the same rates. Numbers are stages; lines go from owner to owner.</text>",
        plan.stages.len(),
        workers.len(),
        peers.len(),
        plan.prediction.step,
    )?;
    let places = boxes(out, swarm, plan, &groups)?;
    arrows(out, plan, account, &places)?;
    timeline(out, swarm, plan, account, top)?;
    out.push_str("</svg>\n");
    Ok(())
}

/// Draws the fences; returns where each peer stands.
fn boxes(
    out: &mut String,
    swarm: &Swarm,
    plan: &Plan,
    groups: &[Vec<PeerId>],
) -> Result<BTreeMap<PeerId, (f64, f64)>, fmt::Error> {
    let mut places = BTreeMap::new();
    let mut top = 60.0;
    let per_row = ((WIDTH - LEFT) / PEER).floor().max(1.0);
    for (number, group) in groups.iter().enumerate() {
        let rows = (group.len() as f64 / per_row).ceil();
        let height = BOX + (rows - 1.0) * 40.0;
        writeln!(
            out,
            "<rect x=\"5\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"8\" fill=\"#f4f6f8\" stroke=\"#b8c0c8\"/>\n\
             <text x=\"14\" y=\"{:.1}\">fence {number}: {} peers</text>",
            top,
            WIDTH - 10.0,
            height - 8.0,
            top + 20.0,
            group.len(),
        )?;
        for (place, peer) in group.iter().enumerate() {
            let row = (place as f64 / per_row).floor();
            let (x, y) =
                (LEFT + PEER * (place as f64 - row * per_row) + 10.0, top + 32.0 + 40.0 * row);
            places.insert(*peer, (x, y));
            let stage = plan.stages.iter().position(|s| s.workers().any(|w| w == *peer));
            let (fill, label) = match stage {
                Some(stage) if plan.stages[stage].owner == *peer => ("#2563a8", stage.to_string()),
                Some(stage) => ("#6ea3d8", stage.to_string()),
                None => ("#ccd3da", String::new()),
            };
            writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"11\" fill=\"{fill}\"><title>{}</title></circle>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#fff\" font-size=\"10\">{label}</text>",
                Escaped(&swarm.name(*peer)),
                y + 3.5,
            )?;
        }
        top += height;
    }
    Ok(places)
}

fn arrows(
    out: &mut String,
    plan: &Plan,
    account: &Account,
    places: &BTreeMap<PeerId, (f64, f64)>,
) -> fmt::Result {
    for crossing in &account.crossings {
        let owner = |stage: wattle_protocol::ids::StageId| plan.owner(stage);
        let at = |peer: Option<PeerId>| peer.and_then(|p| places.get(&p).copied());
        let (Some((x0, y0)), Some((x1, y1))) = (at(owner(crossing.from)), at(owner(crossing.to)))
        else {
            continue;
        };
        writeln!(
            out,
            "<path d=\"M{x0:.1} {:.1} Q{:.1} {:.1} {x1:.1} {:.1}\" fill=\"none\" stroke=\"#c2410c\" stroke-opacity=\".7\"><title>stage {} to {}: {} there, {} back for each micro-batch</title></path>",
            y0 + 11.0,
            (x0 + x1) / 2.0,
            y0.max(y1) + 26.0,
            y1 + 11.0,
            crossing.from,
            crossing.to,
            crossing.there,
            crossing.back,
        )?;
    }
    Ok(())
}

fn timeline(
    out: &mut String,
    swarm: &Swarm,
    plan: &Plan,
    account: &Account,
    top: f64,
) -> fmt::Result {
    let whole = plan.prediction.step.seconds().max(1e-9);
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - 10.0) * seconds / whole;
    writeln!(
        out,
        "<text x=\"10\" y=\"{:.1}\" font-size=\"14\">The predicted step: <tspan fill=\"#2563a8\">forward</tspan>, <tspan fill=\"#0f766e\">backward</tspan>, <tspan fill=\"#c2410c\">sending</tspan></text>",
        top - 12.0,
    )?;
    let workers =
        plan.stages.iter().enumerate().flat_map(|(s, p)| p.workers().map(move |w| (s, w)));
    let mut row = top;
    for (stage, peer) in workers {
        writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{row:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#eef1f4\"/><text x=\"10\" y=\"{:.1}\" font-size=\"10\">{stage}: {}</text>",
            WIDTH - LEFT - 10.0,
            ROW - 2.0,
            row + 10.5,
            Escaped(&swarm.name(peer)),
        )?;
        for span in account.spans.iter().filter(|s| s.peer == peer) {
            bar(out, span, row, &x)?;
        }
        row += ROW;
    }
    for part in 0..=4 {
        let at = whole * f64::from(part) / 4.0;
        let anchor = if part == 4 { "end" } else { "start" };
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#555\" text-anchor=\"{anchor}\">{at:.3} s</text>",
            x(at),
            row + 16.0,
        )?;
    }
    Ok(())
}

fn bar(out: &mut String, span: &Span, row: f64, x: &dyn Fn(f64) -> f64) -> fmt::Result {
    let seconds = |at: wattle_protocol::units::Instant| at.micros() as f64 / 1e6;
    let (from, to) = (x(seconds(span.start)), x(seconds(span.end)));
    // Passes fill the row, transfers its foot.
    let (fill, above, tall) = match span.work {
        Work::Forward(..) => ("#2563a8", 0.0, ROW - 5.0),
        Work::Backward(..) => ("#0f766e", 0.0, ROW - 5.0),
        Work::Send(_) => ("#c2410c", ROW - 5.0, 3.0),
    };
    writeln!(
        out,
        "<rect x=\"{from:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{tall:.1}\" fill=\"{fill}\"/>",
        row + above,
        (to - from).max(0.4),
    )
}
