//! Walking a TOML table: typed keys with limits and defaults, and a note of everything that is wrong.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{LENGTH_MAX, Problem, Problems};

/// Most mistakes that are reported; a file with more is not a job file.
const PROBLEMS_MAX: usize = 100;

/// A file, the keys that have been asked for, and what was wrong with them.
pub(super) struct Keys {
    root: Table,
    /// Known keys by section.
    asked: BTreeMap<String, Vec<String>>,
    problems: Vec<Problem>,
}

impl Keys {
    /// Reads the text.
    ///
    /// *Errors*: it is no TOML, or too long to be a job file.
    pub(super) fn of(text: &str) -> Result<Self, Problems> {
        let problem = |remedy: String| {
            Problems(vec![Problem { key: String::new(), value: String::new(), remedy }])
        };
        if text.len() > LENGTH_MAX {
            return Err(problem(format!(
                "the file has {} bytes; a job file has at most {LENGTH_MAX}",
                text.len()
            )));
        }
        let root = text.parse::<Table>().map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            problem(format!("line {line} is no TOML: {}", error.message()))
        })?;
        Ok(Self { root, asked: BTreeMap::new(), problems: Vec::new() })
    }

    /// Notes that there is such a section, and whether it is a table.
    pub(super) fn section(&mut self, path: &str) -> String {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        self.ask(parent, key);
        self.asked.entry(path.to_owned()).or_default();
        let found = self.table(parent).and_then(|t| t.get(key));
        if let Some(value) = found.filter(|v| !v.is_table()).map(shown) {
            self.wrong(path, &value, &format!("a section [{path}] is wanted here"));
        }
        path.to_owned()
    }

    fn table(&self, path: &str) -> Option<&Table> {
        let mut table = &self.root;
        for part in path.split('.').filter(|p| !p.is_empty()) {
            table = table.get(part)?.as_table()?;
        }
        Some(table)
    }

    fn ask(&mut self, section: &str, key: &str) -> Option<Value> {
        self.asked.entry(section.to_owned()).or_default().push(key.to_owned());
        self.table(section)?.get(key).cloned()
    }

    /// Notes a mistake.
    pub(super) fn wrong(&mut self, key: &str, value: &str, remedy: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            let (key, value, remedy) = (key.to_owned(), value.to_owned(), remedy.to_owned());
            self.problems.push(Problem { key, value, remedy });
        }
    }

    fn missing<T: ToString, U>(
        &mut self,
        path: &str,
        default: Option<T>,
        make: impl FnOnce(T) -> U,
    ) -> Option<U> {
        if default.is_none() {
            self.wrong(path, "", &missing_key(path));
        }
        default.map(make)
    }

    /// Reads a text; without a default it must be there.
    pub(super) fn text(
        &mut self,
        section: &str,
        key: &str,
        default: Option<&str>,
    ) -> Option<String> {
        let path = join(section, key);
        match self.ask(section, key) {
            Some(Value::String(text)) => Some(text),
            Some(other) => {
                self.wrong(&path, &shown(&other), "a text in quotes is wanted here");
                None
            }
            None => self.missing(&path, default, str::to_owned),
        }
    }

    /// Says whether a key is there.
    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        self.table(section).is_some_and(|t| t.contains_key(key))
    }

    /// Reads a text that may be left out.
    pub(super) fn optional_text(&mut self, section: &str, key: &str) -> Option<String> {
        if self.has(section, key) {
            return self.text(section, key, None);
        }
        self.ask(section, key);
        None
    }

    /// Reads a list of texts; one that is left out is empty.
    pub(super) fn texts(&mut self, section: &str, key: &str) -> Vec<String> {
        let Some(value) = self.ask(section, key) else {
            return Vec::new();
        };
        let list = value.as_array().map(|list| list.iter().map(Value::as_str));
        match list.and_then(|list| list.map(|t| Some(t?.to_owned())).collect()) {
            Some(texts) => texts,
            None => {
                let remedy = "a list of texts in quotes is wanted here";
                self.wrong(&join(section, key), &shown(&value), remedy);
                Vec::new()
            }
        }
    }

    /// Reads a section whose keys are the user's own; those whose values are not what `take` takes are noted.
    pub(super) fn entries<T>(
        &mut self,
        path: &str,
        wanted: &str,
        take: impl Fn(&Value) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let section = self.section(path);
        let table = self.table(&section).cloned().unwrap_or_default();
        let mut entries = BTreeMap::new();
        for (key, value) in table {
            self.ask(&section, &key);
            match take(&value) {
                Some(entry) => drop(entries.insert(key, entry)),
                None => self.wrong(&join(&section, &key), &shown(&value), wanted),
            }
        }
        entries
    }

    /// Reads one of a few words.
    pub(super) fn choice(
        &mut self,
        section: &str,
        key: &str,
        words: &[&'static str],
        default: &'static str,
    ) -> Option<&'static str> {
        let text = self.text(section, key, Some(default))?;
        let found = words.iter().find(|w| **w == text).copied();
        if found.is_none() {
            let remedy = format!("one of {} is wanted here", quoted(words));
            self.wrong(&join(section, key), &format!("\"{text}\""), &remedy);
        }
        found
    }

    /// Reads a whole number within limits; None without a note where there is neither key nor default.
    pub(super) fn whole(
        &mut self,
        section: &str,
        key: &str,
        limits: (u64, u64),
        default: Option<u64>,
    ) -> Option<u64> {
        match self.ask(section, key) {
            Some(value) => self.whole_of(&join(section, key), &value, limits, ""),
            None => default,
        }
    }

    /// Reads a whole number or a word that stands for none; outer None: it is wrong.
    pub(super) fn whole_or(
        &mut self,
        section: &str,
        key: &str,
        word: &str,
        limits: (u64, u64),
    ) -> Option<Option<u64>> {
        match self.ask(section, key) {
            None => Some(None),
            Some(Value::String(text)) if text == word => Some(None),
            Some(value) => {
                let or = format!(", or \"{word}\"");
                self.whole_of(&join(section, key), &value, limits, &or).map(Some)
            }
        }
    }

    fn whole_of(&mut self, path: &str, value: &Value, limits: (u64, u64), or: &str) -> Option<u64> {
        let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
        let found = number.filter(|n| (limits.0..=limits.1).contains(n));
        if found.is_none() {
            let remedy =
                format!("a whole number from {} to {}{or} is wanted here", limits.0, limits.1);
            self.wrong(path, &shown(value), &remedy);
        }
        found
    }

    /// Reads a number within limits.
    pub(super) fn number(
        &mut self,
        section: &str,
        key: &str,
        limits: (f64, f64),
        default: Option<f64>,
    ) -> Option<f64> {
        let path = join(section, key);
        let Some(value) = self.ask(section, key) else {
            return self.missing(&path, default, |d| d);
        };
        #[expect(clippy::cast_precision_loss, reason = "a setting that a person wrote")]
        let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
        let found = number.filter(|n| n.is_finite() && *n >= limits.0 && *n <= limits.1);
        if found.is_none() {
            let least = if limits.0 == f64::MIN_POSITIVE {
                "above 0".into()
            } else {
                format!("from {}", limits.0)
            };
            let remedy = format!("a number {least} to {} is wanted here", limits.1);
            self.wrong(&path, &shown(&value), &remedy);
        }
        found
    }

    /// Reads a number that may be left out.
    pub(super) fn optional_number(
        &mut self,
        section: &str,
        key: &str,
        limits: (f64, f64),
    ) -> Option<f64> {
        if self.has(section, key) {
            return self.number(section, key, limits, None);
        }
        self.ask(section, key);
        None
    }

    /// Reads true or false, or a word that stands for neither, which is the default.
    pub(super) fn flag_or(&mut self, section: &str, key: &str, word: &str) -> Option<Option<bool>> {
        match self.ask(section, key) {
            None => Some(None),
            Some(Value::Boolean(flag)) => Some(Some(flag)),
            Some(Value::String(text)) if text == word => Some(None),
            Some(other) => {
                let remedy = format!("true, false, or \"{word}\" is wanted here");
                self.wrong(&join(section, key), &shown(&other), &remedy);
                None
            }
        }
    }

    /// Notes every key that nobody has asked for.
    pub(super) fn unknown(&mut self) {
        let mut found = Vec::new();
        for (section, known) in &self.asked {
            let Some(table) = self.table(section) else {
                continue;
            };
            for (key, value) in table.iter().filter(|(key, _)| !known.contains(key)) {
                let near = nearest(key, known.iter().map(String::as_str));
                let hint = near.map_or_else(
                    || format!("there is no such key; there are {}", known.join(", ")),
                    |n| format!("there is no such key; did you mean \"{n}\"?"),
                );
                found.push((join(section, key), shown(value), hint));
            }
        }
        for (key, value, remedy) in found {
            self.wrong(&key, &value, &remedy);
        }
    }

    /// Ends the walk.
    ///
    /// *Errors*: every mistake that was noted.
    pub(super) fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}

/// Says that a key is missing, and what may stand there where that is a matter of a few names.
fn missing_key(path: &str) -> String {
    match path {
        "data.source" => {
            format!("this key is missing; there are {}", wattle_models::data::names().join(", "))
        }
        _ => "this key is missing".into(),
    }
}

/// Writes a value as it might stand in the file, cut to a line.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => "a section".to_owned(),
        other => other.to_string().replace('\n', " "),
    };
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short}...") } else { text }
}

/// Returns the word that a misspelt one most likely stands for.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: String = word.chars().take(64).collect();
    known
        .map(|k| (strsim::damerau_levenshtein(&word, k), k))
        .filter(|(distance, k)| *distance <= k.len().div_ceil(3))
        .min()
        .map(|(_, k)| k)
}
