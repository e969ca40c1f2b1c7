//! Rules for words: comments that tell the present, nothing left to do in secret, pages whose links hold.

use std::collections::BTreeSet;

use crate::exceptions::{Offence, judge};
use crate::source::{Source, all_files, files, has_word, read, root};

/// Words that tell what a file was instead of what it is.
const HISTORY: [&str; 10] = [
    "no longer",
    "used to be",
    "previously",
    "formerly",
    "new version",
    "old version",
    "refactored",
    "now uses",
    "now takes",
    "was renamed",
];
/// Longest line of a page, where tables, code and links do not force a longer one.
const COLUMNS: usize = 110;

#[test]
fn comments_tell_the_present() {
    let mut offences = Vec::new();
    for source in Source::all() {
        for (line, comment) in &source.comments {
            let lower = comment.to_lowercase();
            if let Some(word) = HISTORY.iter().find(|word| has_word(&lower, word)) {
                offences.push(Offence::new(
                    &source.path,
                    *line,
                    format!("\"{word}\": say what is; history is in git"),
                ));
            }
            if ["-----", "=====", "*****", "#####"].iter().any(|banner| comment.contains(banner))
                && !comment.contains('|')
            {
                offences.push(Offence::new(
                    &source.path,
                    *line,
                    "no section banners; make it a file of its own",
                ));
            }
        }
    }
    judge("words", &offences);
}

#[test]
fn nothing_is_left_to_do_in_secret() {
    let mut offences = Vec::new();
    for source in Source::all() {
        for (line, comment) in &source.comments {
            if has_word(comment, "FIXME") || has_word(comment, "XXX") {
                offences.push(Offence::new(
                    &source.path,
                    *line,
                    "mend it, or open an issue and write TODO(#number)",
                ));
            }
            if has_word(comment, "TODO") && !comment.contains("TODO(#") {
                offences.push(Offence::new(
                    &source.path,
                    *line,
                    "a TODO needs its issue: TODO(#number)",
                ));
            }
        }
        for (index, line) in source.code.iter().enumerate() {
            let left = ["dbg!", "todo!", "unimplemented!"].iter().find(|word| line.contains(*word));
            if let Some(word) = left {
                offences.push(Offence::new(
                    &source.path,
                    index + 1,
                    format!("{word} is not for commits"),
                ));
            }
        }
    }
    judge("left to do", &offences);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let homes = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
    ];
    let mut offences = Vec::new();
    for path in all_files() {
        for (index, line) in read(&path).lines().enumerate() {
            if let Some(home) = homes.iter().find(|home| starts_path(line, home)) {
                offences.push(Offence::new(
                    &path,
                    index + 1,
                    format!("{home} is a path of one machine"),
                ));
            }
        }
    }
    judge("paths", &offences);
}

/// Says whether an absolute path begins with this; a folder of that name within another path does not count.
fn starts_path(line: &str, home: &str) -> bool {
    let within = |c: char| c.is_alphanumeric() || "._-}*".contains(c);
    line.match_indices(home).any(|(at, _)| !line[..at].ends_with(within))
}

/// A link in a page: line (from 1) and target.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in prose(text) {
        for (at, _) in line.match_indices("](") {
            let target: String = line[at + 2..].chars().take_while(|c| *c != ')').collect();
            found.push((index, target));
        }
    }
    found
}

/// Returns the lines outside code blocks, with their numbers from 1.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut kept = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            kept.push((index + 1, line));
        }
    }
    kept
}

/// Returns the anchors that a page offers, made from its headings as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|(_, line)| line.starts_with('#'));
    headings
        .map(|(_, line)| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_of_pages_hold() {
    let mut offences = Vec::new();
    for page in files(&[".md"]) {
        let text = read(&page);
        let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, target) in links(&text) {
            if target.starts_with("http") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let full =
                if path.is_empty() { root().join(&page) } else { root().join(folder).join(path) };
            if !full.exists() {
                offences.push(Offence::new(&page, line, format!("{target} does not exist")));
            } else if !anchor.is_empty() {
                let other = std::fs::read_to_string(&full).unwrap_or_default();
                if !anchors(&other).contains(anchor) {
                    offences.push(Offence::new(
                        &page,
                        line,
                        format!("{target} has no such heading"),
                    ));
                }
            }
        }
    }
    judge("links", &offences);
}

#[test]
fn pages_wrap() {
    let mut offences = Vec::new();
    for page in files(&[".md"]) {
        let text = read(&page);
        for (line, content) in prose(&text) {
            let is_free = content.trim_start().starts_with('|')
                || content.contains("](")
                || !content.contains(' ');
            if content.chars().count() > COLUMNS && !is_free {
                offences.push(Offence::new(&page, line, format!("wrap at {COLUMNS} columns")));
            }
        }
    }
    judge("wrap", &offences);
}

/// Goal: the glossary speaks of code that exists, and of each term once. Method: each row ends with a symbol and the
/// file that holds it.
#[test]
fn glossary_terms_exist() {
    let page = "docs/glossary.md";
    let text = read(page);
    let mut offences = Vec::new();
    let mut seen = BTreeSet::new();
    let mut rows = 0;
    for (line, row) in prose(&text).into_iter().filter(|(_, line)| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [term, _, place] = cells.as_slice() else {
            offences.push(Offence::new(
                page,
                line,
                "a row is term, meaning, `symbol` in [file](path)",
            ));
            continue;
        };
        if *term == "term" || term.starts_with("---") {
            continue;
        }
        rows += 1;
        if !seen.insert(term.to_lowercase()) {
            offences.push(Offence::new(page, line, format!("{term} stands twice")));
        }
        let symbol = place.split('`').nth(1).unwrap_or_default();
        let target =
            place.split("](").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
        let file = target.trim_start_matches("../");
        let holds =
            std::fs::read_to_string(root().join(file)).is_ok_and(|text| has_word(&text, symbol));
        if symbol.is_empty() || !holds {
            offences.push(Offence::new(
                page,
                line,
                format!("{term}: there is no `{symbol}` in {file}"),
            ));
        }
    }
    assert!(rows > 0, "{page} has no rows");
    judge("glossary", &offences);
}

/// Goal: pages and code find each other. Method: each concept page links Rust files; one of them names the page.
#[test]
fn concept_pages_and_their_files_link_each_other() {
    let mut offences = Vec::new();
    for page in files(&[".md"]).into_iter().filter(|p| p.starts_with("docs/concepts/")) {
        let targets = links(&read(&page))
            .into_iter()
            .map(|(_, target)| target)
            .filter(|t| t.ends_with(".rs"));
        let linked: Vec<String> = targets.map(|t| t.trim_start_matches("../").to_owned()).collect();
        let is_linked_back = linked.iter().any(|file| {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.contains(&page))
        });
        if !is_linked_back {
            let remedy =
                format!("link the file that implements it, and name {page} in that file's header");
            offences.push(Offence::new(&page, 1, remedy));
        }
    }
    judge("concepts", &offences);
}

/// Goal: the reference of job files lists what the parser reads. Method: keys asked for in code against keys in the page.
#[test]
fn the_job_file_page_lists_the_keys_that_are_read() {
    let parts = ["jobfile.rs", "jobfile/model.rs", "jobfile/sizes.rs"];
    let code: String = parts.iter().map(|part| read(&format!("node/src/{part}"))).collect();
    let asked: BTreeSet<String> = code
        .split("keys.")
        .skip(1)
        .filter(|call| {
            let name = call.split('(').next().unwrap_or_default();
            let texts = ["text", "optional_text", "texts", "choice", "flag_or"];
            let numbers = ["whole", "whole_or", "number", "optional_number"];
            texts.contains(&name) || numbers.contains(&name)
        })
        .filter_map(|call| call.split_once(", \"")?.1.split('"').next().map(str::to_owned))
        .collect();
    let page = read("docs/reference/job-file.md");
    let listed: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('`').nth(1).map(str::to_owned))
        .collect();
    assert!(
        !asked.is_empty(),
        "node/src/jobfile.rs reads no keys in the form that this check knows"
    );
    assert_eq!(
        listed, asked,
        "docs/reference/job-file.md (left) and node/src/jobfile.rs (right) differ"
    );
}
