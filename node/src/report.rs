//! The demonstration's report: one HTML file that needs nothing else, for light and dark, wide and narrow.
//!
//! Plain data in, text out. [`curve`] draws losses, [`map`] the swarm, [`timeline`] the pipeline; all as SVG whose
//! colors come from the page's style. Not here: where the data come from (`demo::page`).

pub mod curve;
pub mod map;
pub mod timeline;

use std::fmt::{self, Display, Write as _};

pub use curve::Curve;
pub use map::{Arrow, Dot};
pub use timeline::{Bar, Row};

/// Everything that the report shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Heading.
    pub title: String,
    /// What happened, in a sentence or two.
    pub summary: String,
    /// Large figures at the top: name and value.
    pub figures: Vec<(String, String)>,
    /// Losses.
    pub curve: Curve,
    /// Peers of the map.
    pub dots: Vec<Dot>,
    /// Links of the map.
    pub arrows: Vec<Arrow>,
    /// Pipeline timelines, each with a caption.
    pub timelines: Vec<(String, Vec<Row>)>,
    /// The closing table: name and value.
    pub rows: Vec<(String, String)>,
    /// What is emulated, and what a reader must know to trust the figures.
    pub notes: Vec<String>,
}

/// Text that is safe inside HTML.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

const STYLE: &str = include_str!("report/style.css");

/// Writes the whole page.
pub fn render(report: &Report) -> String {
    let mut page = String::with_capacity(64 << 10);
    // Writing into a String cannot fail.
    write_page(&mut page, report).unwrap_or_default();
    page
}

fn write_page(out: &mut String, report: &Report) -> fmt::Result {
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n",
        Escaped(&report.title),
        Escaped(&report.title),
        Escaped(&report.summary),
    )?;
    out.push_str("<dl class=\"figures\">\n");
    for (name, value) in &report.figures {
        writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value))?;
    }
    out.push_str("</dl>\n");
    section(out, "Loss", "Mean loss of each step, in nats.", |out| {
        curve::draw(out, &report.curve)
    })?;
    section(
        out,
        "The swarm",
        "Each circle is a process. Its size is its measured speed, the line's width the tensor bytes that crossed it.",
        |out| map::draw(out, &report.dots, &report.arrows),
    )?;
    for (caption, rows) in &report.timelines {
        section(out, "The pipeline", caption, |out| timeline::draw(out, rows))?;
    }
    section(out, "Figures", "As measured in this run.", |out| table(out, &report.rows))?;
    out.push_str("<footer>\n");
    for note in &report.notes {
        writeln!(out, "<p>{}</p>", Escaped(note))?;
    }
    out.push_str("</footer>\n</main>\n</body>\n</html>\n");
    Ok(())
}

fn section(
    out: &mut String,
    title: &str,
    caption: &str,
    body: impl FnOnce(&mut String) -> fmt::Result,
) -> fmt::Result {
    write!(out, "<section>\n<h2>{}</h2>\n<p>{}</p>\n", Escaped(title), Escaped(caption))?;
    body(out)?;
    out.push_str("</section>\n");
    Ok(())
}

fn table(out: &mut String, rows: &[(String, String)]) -> fmt::Result {
    out.push_str("<table>\n");
    for (name, value) in rows {
        writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
            Escaped(name),
            Escaped(value)
        )?;
    }
    out.push_str("</table>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_become_markup() {
        let evil = "<script>alert('x')</script>\"&".to_string();
        let report = Report {
            title: evil.clone(),
            summary: evil.clone(),
            figures: vec![(evil.clone(), evil.clone())],
            curve: Curve { losses: vec![(0, 2.0), (1, 1.0)], ..Curve::default() },
            dots: vec![Dot { name: evil.clone(), detail: evil.clone(), ..Dot::default() }],
            timelines: vec![(evil.clone(), vec![Row { name: evil.clone(), bars: vec![] }])],
            rows: vec![(evil.clone(), evil.clone())],
            notes: vec![evil],
            ..Report::default()
        };
        let page = render(&report);
        assert!(!page.contains("<script") && !page.contains("alert('x')"));
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"));
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let page = render(&Report::default());
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("@import"));
    }
}
