//! The project's files as tidy reads them: Rust with its strings and comments set apart, everything else as lines.
//!
//! This is no parser: [`Source::of`] only knows where strings, characters and comments begin and end, which is
//! enough to tell a word in code from the same word in a message.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];
/// Files that are read as text.
const TEXT: [&str; 9] = ["rs", "toml", "md", "txt", "sh", "yml", "yaml", "py", "snap"];

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let tests = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the tests' folder");
    Path::new(&tests).parent().expect("the tests lie in the workspace").to_path_buf()
}

/// Reads one file of the project.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
}

/// Returns all text files with one of these endings, as paths from the root, in order.
pub(crate) fn files(endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.retain(|path| endings.iter().any(|e| path.ends_with(e)));
    found.sort();
    found
}

/// Returns every text file, scripts without an ending included.
pub(crate) fn all_files() -> Vec<String> {
    let mut found = Vec::new();
    walk(&root(), "", &mut found);
    found.retain(|path| {
        path.starts_with(".ci/")
            || path.rsplit_once('.').is_some_and(|(_, ending)| TEXT.contains(&ending))
    });
    found.sort();
    found
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the project opens") {
        let entry = entry.expect("a folder of the project lists");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_file() {
            found.push(path);
        } else if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            walk(&entry.path(), &path, found);
        }
    }
}

/// A Rust file with strings and comments taken out.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the root.
    pub(crate) path: String,
    /// Lines as they stand.
    pub(crate) lines: Vec<String>,
    /// The same text with the inside of strings, characters and comments blanked, line by line.
    pub(crate) code: Vec<String>,
    /// Text of comments, with their line (from 1); one entry a line.
    pub(crate) comments: Vec<(usize, String)>,
}

/// A function: its name, the line of its `fn` (from 1), and the lines of code in its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Name.
    pub(crate) name: String,
    /// Line of `fn`.
    pub(crate) line: usize,
    /// Lines of code between its braces, comments and blank lines not counted.
    pub(crate) size: usize,
}

impl Source {
    /// Reads every Rust file of the project.
    pub(crate) fn all() -> Vec<Self> {
        files(&[".rs"]).iter().map(|path| Self::of(path, &read(path))).collect()
    }

    /// Takes a text apart.
    pub(crate) fn of(path: &str, text: &str) -> Self {
        let mut masker = Masker {
            rest: text.chars().collect(),
            at: 0,
            code: String::new(),
            comment: String::new(),
        };
        masker.run();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let code = masker.code.lines().map(str::to_owned).collect();
        let comments = masker
            .comment
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| (index + 1, line.trim().to_owned()))
            .collect();
        Self { path: path.to_owned(), lines, code, comments }
    }

    /// Returns the lines of code (from 1) in which a word stands by itself.
    pub(crate) fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let hits = self.code.iter().enumerate().filter(move |(_, line)| has_word(line, word));
        hits.map(|(index, _)| index + 1)
    }

    /// Returns every function that has a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let text: Vec<char> = self.code.join("\n").chars().collect();
        let mut found = Vec::new();
        let mut line = 1;
        for at in 0..text.len() {
            line += usize::from(text[at] == '\n');
            let starts =
                text[at..].starts_with(&['f', 'n', ' ']) && (at == 0 || !is_name(text[at - 1]));
            if !starts {
                continue;
            }
            let name: String = text[at + 3..].iter().take_while(|c| is_name(**c)).collect();
            if let Some((open, close)) = body(&text, at)
                && !name.is_empty()
            {
                let inside: String = text[open + 1..close].iter().collect();
                let size = inside.lines().filter(|l| !l.trim().is_empty()).count();
                found.push(Function { name, line, size });
            }
        }
        found
    }
}

/// Says whether a word stands in a line with no letter of a name on either side.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Finds the braces of the function whose `fn` stands at `from`; None for a declaration.
fn body(text: &[char], from: usize) -> Option<(usize, usize)> {
    let mut nested = 0_i32;
    let mut open = None;
    for (at, c) in text.iter().enumerate().skip(from) {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            ';' if nested == 0 => return None,
            '{' if nested == 0 => {
                open = Some(at);
                break;
            }
            _ => {}
        }
    }
    let open = open?;
    let mut depth = 0_i32;
    for (at, c) in text.iter().enumerate().skip(open) {
        depth += i32::from(*c == '{') - i32::from(*c == '}');
        if depth == 0 {
            return Some((open, at));
        }
    }
    None
}

/// Walks a text and writes it twice: code with blanks for everything else, comments with blanks for everything else.
struct Masker {
    rest: Vec<char>,
    at: usize,
    code: String,
    comment: String,
}

impl Masker {
    fn run(&mut self) {
        while let Some(c) = self.peek(0) {
            match c {
                '/' if self.peek(1) == Some('/') => self.line_comment(),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.string(),
                'r' if self.starts_raw() => self.raw_string(),
                '\'' => self.character(),
                _ => self.keep(),
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    /// Takes a character as code.
    fn keep(&mut self) {
        let c = self.rest[self.at];
        self.code.push(c);
        self.comment.push(if c == '\n' { c } else { ' ' });
        self.at += 1;
    }

    /// Takes a character as part of a string: neither code nor comment.
    fn blank(&mut self) {
        let c = if self.rest[self.at] == '\n' { '\n' } else { ' ' };
        self.code.push(c);
        self.comment.push(c);
        self.at += 1;
    }

    fn note(&mut self) {
        let c = self.rest[self.at];
        self.code.push(if c == '\n' { c } else { ' ' });
        self.comment.push(c);
        self.at += 1;
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.note();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.note();
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.note();
                }
                (None, _) => return,
                _ => {}
            }
            self.note();
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.keep();
        while let Some(c) = self.peek(0) {
            match c {
                '\\' if self.peek(1).is_some() => {
                    self.blank();
                    self.blank();
                }
                '"' => return self.keep(),
                _ => self.blank(),
            }
        }
    }

    /// Says whether `r` begins a raw string, and not a name that ends in r or a raw identifier.
    fn starts_raw(&self) -> bool {
        let before = self.at.checked_sub(1).map(|i| self.rest[i]);
        if before.is_some_and(|c| is_name(c) && c != 'b' && c != 'c') {
            return false;
        }
        let hashes = self.rest[self.at + 1..].iter().take_while(|c| **c == '#').count();
        self.peek(1 + hashes) == Some('"')
    }

    fn raw_string(&mut self) {
        self.keep();
        let mut hashes = 0;
        while self.peek(0) == Some('#') {
            hashes += 1;
            self.keep();
        }
        self.keep();
        while let Some(c) = self.peek(0) {
            let ends = c == '"' && (1..=hashes).all(|n| self.peek(n) == Some('#'));
            if ends {
                (0..=hashes).for_each(|_| self.keep());
                return;
            }
            self.blank();
        }
    }

    /// A character, or a lifetime, which is code.
    fn character(&mut self) {
        let is_character = self.peek(1) == Some('\\') || self.peek(2) == Some('\'');
        self.keep();
        if !is_character {
            return;
        }
        if self.peek(0) == Some('\\') {
            self.blank();
        }
        self.blank();
        while self.peek(0).is_some_and(|c| c != '\'' && c != '\n') {
            self.blank();
        }
        if self.peek(0) == Some('\'') {
            self.keep();
        }
    }
}

#[test]
fn strings_characters_and_comments_are_told_from_code() {
    let text = "let a = \"// FIXME {\"; // why {\nlet b = '{'; let c: &'a str = r#\"dbg!(\"#; /* x\ny */ fn f() {\n  let d = '\\'';\n}\n";
    let source = Source::of("x.rs", text);
    assert!(!source.code.join("\n").contains("FIXME") && !source.code.join("\n").contains("dbg!"));
    assert_eq!(source.comments.len(), 3, "{:?}", source.comments);
    assert_eq!(source.comments[0], (1, "// why {".into()));
    assert_eq!(source.functions(), [Function { name: "f".into(), line: 3, size: 1 }]);
}

#[test]
fn a_word_is_found_only_by_itself() {
    assert!(has_word("use burn::tensor;", "burn"));
    assert!(!has_word("let burned = 1;", "burn"));
    assert!(!has_word("auburn", "burn"));
}
