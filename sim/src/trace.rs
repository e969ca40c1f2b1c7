//! What happened, line by line: hashed as it comes, kept only where it is asked for.

use wattle_protocol::units::Instant;

/// A trace in the making.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    lines: Option<Vec<String>>,
    count: u64,
}

impl Trace {
    /// Makes an empty trace that keeps its lines or only their hash.
    pub fn new(keep: bool) -> Self {
        Self { hasher: blake3::Hasher::new(), lines: keep.then(Vec::new), count: 0 }
    }

    /// Adds a line.
    pub fn line(&mut self, now: Instant, text: &str) {
        let line = format!("{} {text}\n", now.micros());
        self.hasher.update(line.as_bytes());
        self.count += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// Returns the hash of all lines, how many there are, and the lines where they were kept.
    pub fn finish(self) -> (String, u64, Vec<String>) {
        (self.hasher.finalize().to_hex().to_string(), self.count, self.lines.unwrap_or_default())
    }
}
