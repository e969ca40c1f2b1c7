//! Where a command's words go: data to standard output, progress to standard error, as text or JSON Lines.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;

use serde_json::Value;

/// A command's two streams.
#[derive(Debug)]
pub struct Output {
    json: bool,
    live: bool,
    /// Length of the status line on the terminal, to be wiped before anything else is written.
    status: Mutex<usize>,
}

impl Output {
    /// Makes an output; with `json`, data are JSON Lines.
    pub fn new(json: bool) -> Self {
        Self { json, live: std::io::stderr().is_terminal(), status: Mutex::new(0) }
    }

    /// Says whether data are JSON Lines.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Says whether a person watches.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Writes data: one JSON object on one line, or the text.
    pub fn data(&self, json: &Value, text: &str) {
        self.wipe();
        let mut out = std::io::stdout().lock();
        let written = if self.json { writeln!(out, "{json}") } else { writeln!(out, "{text}") };
        // A closed pipe ends the reader's interest, not the job.
        written.and_then(|()| out.flush()).unwrap_or_default();
    }

    /// Writes text for people; nothing where data are JSON Lines.
    pub fn text(&self, text: &str) {
        if !self.json {
            self.data(&Value::Null, text);
        }
    }

    /// Writes a line of progress.
    pub fn progress(&self, text: &str) {
        self.wipe();
        writeln!(std::io::stderr().lock(), "{text}").unwrap_or_default();
    }

    /// Replaces the status line; nothing where nobody watches.
    pub fn status(&self, text: &str) {
        if !self.live {
            return;
        }
        self.wipe();
        write!(std::io::stderr().lock(), "{text}").unwrap_or_default();
        if let Ok(mut length) = self.status.lock() {
            *length = text.chars().count();
        }
    }

    fn wipe(&self) {
        let Ok(mut length) = self.status.lock() else {
            return;
        };
        if *length > 0 {
            write!(std::io::stderr().lock(), "\r{}\r", " ".repeat(*length)).unwrap_or_default();
            *length = 0;
        }
    }
}
