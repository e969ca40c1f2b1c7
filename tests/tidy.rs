//! Tidy: the rules of `docs/style.md` that a machine can check, as ordinary tests.
//!
//! Each check prints every offence with its file, its line and what to do. What cannot be mended at once stands in
//! `tidy-exceptions.txt`, which may only become shorter.
//!
//! Reading order: [`source`] (how files are read), [`exceptions`] (what is forgiven), then the rules: [`manifest`]
//! (directions and versions), [`code`] (Rust files), [`words`] (comments and pages).

#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/exceptions.rs"]
mod exceptions;
#[path = "tidy/manifest.rs"]
mod manifest;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

#[test]
fn the_list_of_exceptions_does_not_grow() {
    exceptions::check_list(&["file", "function", "clock", "order", "header", "words"]);
}
