//! Reads one line of a dump from left to right.

use std::collections::BTreeMap;

use super::TextError;
use crate::dag::op::Gelu;
use crate::dag::{Dtype, Fact, Init};
use crate::ids::ValueId;

/// Says whether a character may stand in a name without quotes.
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._/#@'+-~".contains(c)
}

/// A place in a line.
pub(super) struct Cursor<'a> {
    line: usize,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(line: usize, rest: &'a str) -> Self {
        Self { line, rest }
    }

    pub(super) fn error(&self, expected: &str) -> TextError {
        /// Enough of a line to find the place.
        const FOUND_MAX: usize = 40;
        let found = self.rest.chars().take(FOUND_MAX).collect();
        TextError::Syntax { line: self.line, expected: expected.to_owned(), found }
    }

    /// Skips a token if it stands here; a word must end where the token does.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        if token.ends_with(is_plain) && token != "<-" && rest.starts_with(is_plain) {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), TextError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(&format!("`{token}`"))) }
    }

    pub(super) fn end(&self) -> Result<(), TextError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("the end of the line")) }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        taken
    }

    /// Reads an operator's or source's name.
    pub(super) fn word(&mut self) -> Result<&'a str, TextError> {
        let error = self.error("an operator");
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if word.is_empty() { Err(error) } else { Ok(word) }
    }

    /// Reads a name, plain or quoted.
    pub(super) fn name(&mut self) -> Result<String, TextError> {
        if !self.rest.starts_with('"') {
            let error = self.error("a name");
            let name = self.take_while(is_plain);
            return if name.is_empty() { Err(error) } else { Ok(name.to_owned()) };
        }
        let error = self.error("a quoted name");
        let mut name = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = self.rest[at + 1..].trim_start();
                    return Ok(name);
                }
                '\\' => match chars.next() {
                    Some((_, 'u')) => {
                        let digits: String = chars
                            .by_ref()
                            .map(|(_, c)| c)
                            .skip(1)
                            .take_while(|c| *c != '}')
                            .collect();
                        let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                        name.push(code.ok_or_else(|| error.clone())?);
                    }
                    Some((_, c)) => name.push(c),
                    None => break,
                },
                c => name.push(c),
            }
        }
        Err(error)
    }

    pub(super) fn number<T: FromText>(&mut self) -> Result<T, TextError> {
        let error = self.error("a number");
        T::from_text(self.take_while(|c| !c.is_whitespace())).ok_or(error)
    }

    /// Reads a value's id: `%12`.
    pub(super) fn value(&mut self) -> Result<ValueId, TextError> {
        let error = self.error("a value such as `%12`");
        let digits = self.rest.strip_prefix('%').ok_or_else(|| error.clone())?;
        self.rest = digits;
        let digits = self.take_while(|c| c.is_ascii_digit());
        digits.parse().map(ValueId::new).map_err(|_| error)
    }

    /// Reads operands in parentheses.
    pub(super) fn operands(&mut self) -> Result<Vec<ValueId>, TextError> {
        self.expect("(")?;
        let mut operands = Vec::new();
        while !self.eat(")") {
            if !operands.is_empty() {
                self.expect(",")?;
            }
            operands.push(self.value()?);
        }
        Ok(operands)
    }

    /// Reads a dtype and shape: `f32[8,4]`.
    pub(super) fn fact(&mut self) -> Result<Fact, TextError> {
        let error = self.error("a dtype and shape such as `f32[8,4]`");
        let word = self.take_while(|c| c.is_ascii_alphanumeric());
        let dtype = Dtype::from_text(word).ok_or_else(|| error.clone())?;
        let end = self.rest.find(']').ok_or_else(|| error.clone())?;
        let (shape, rest) = self.rest.split_at(end + 1);
        self.rest = rest.trim_start();
        Ok(Fact { dtype, shape: FromText::from_text(shape).ok_or(error)? })
    }

    /// Reads settings in braces, if there are any: `{axes=[0,1], keep=false}`.
    pub(super) fn attributes(&mut self) -> Result<Attributes<'a>, TextError> {
        let mut attributes = BTreeMap::new();
        if !self.eat("{") {
            return Ok(Attributes(attributes));
        }
        while !self.eat("}") {
            if !attributes.is_empty() {
                self.expect(",")?;
            }
            let key = self.word()?;
            self.expect("=")?;
            let error = self.error("a setting");
            let mut depth = 0usize;
            let end = self.rest.find(|c| {
                match c {
                    '[' | '(' => depth += 1,
                    ']' | ')' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                depth == 0 && matches!(c, ',' | '}')
            });
            let (value, rest) = self.rest.split_at(end.ok_or_else(|| error.clone())?);
            self.rest = rest;
            if attributes.insert(key, value.trim()).is_some() {
                return Err(error);
            }
        }
        Ok(Attributes(attributes))
    }
}

/// Settings that are still to be read.
pub(super) struct Attributes<'a>(BTreeMap<&'a str, &'a str>);

impl Attributes<'_> {
    /// Takes one setting.
    pub(super) fn take<T: FromText>(
        &mut self,
        key: &str,
        cursor: &Cursor<'_>,
    ) -> Result<T, TextError> {
        let text = self.0.remove(key);
        let found = text.unwrap_or("nothing").to_owned();
        text.and_then(T::from_text).ok_or_else(|| TextError::Syntax {
            line: cursor.line,
            expected: format!("a setting `{key}`"),
            found,
        })
    }

    /// Says whether there is such a setting.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Checks that no setting is left.
    pub(super) fn end(&self, cursor: &Cursor<'_>) -> Result<(), TextError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(TextError::Syntax {
                line: cursor.line,
                expected: "no further setting".into(),
                found: (*key).to_owned(),
            }),
        }
    }
}

/// What can stand as a setting.
pub(super) trait FromText: Sized {
    /// Reads it; None if it is something else.
    fn from_text(text: &str) -> Option<Self>;
}

impl FromText for usize {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for u32 {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for f32 {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for i32 {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for Dtype {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            "i32" => Some(Self::I32),
            _ => None,
        }
    }
}

impl<T: FromText> FromText for Vec<T> {
    fn from_text(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
        if inner.is_empty() {
            return Some(Self::new());
        }
        inner.split(',').map(|number| T::from_text(number.trim())).collect()
    }
}

impl<const N: usize> FromText for [usize; N] {
    fn from_text(text: &str) -> Option<Self> {
        Vec::from_text(text)?.try_into().ok()
    }
}

impl FromText for Gelu {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "erf" => Some(Self::Erf),
            "tanh" => Some(Self::Tanh),
            _ => None,
        }
    }
}

impl FromText for Init {
    fn from_text(text: &str) -> Option<Self> {
        let (kind, number) = text.strip_suffix(')')?.split_once('(')?;
        let number = f32::from_text(number)?;
        match kind {
            "constant" => Some(Self::Constant(number)),
            "normal" => Some(Self::Normal(number)),
            "uniform" => Some(Self::Uniform(number)),
            _ => None,
        }
    }
}
