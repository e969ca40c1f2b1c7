//! Networks that a job can name: one file a family, each a `Config` and a `build` that makes a Dag with its loss.
//!
//! Parameters are named as in the checkpoints that other tools write (Hugging Face GPT-2 and Llama, PyTorch's
//! LSTM, torchvision `ResNet`).

pub mod gpt2;
pub mod llama;
pub mod lstm;
pub mod resnet;

use wattle_protocol::dag::{Dag, DagError};

use crate::data::{images, shapes, text};

/// A network by name, with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the network.
    pub name: &'static str,
    /// Data source that suits it.
    pub data: &'static str,
    /// Samples in a micro-batch unless the user says otherwise.
    pub micro_batch: usize,
    /// One line for people.
    pub about: &'static str,
}

const fn entry(
    name: &'static str,
    data: &'static str,
    micro_batch: usize,
    about: &'static str,
) -> Entry {
    Entry { name, data, micro_batch, about }
}

/// All networks, small ones first.
const ENTRIES: [Entry; 21] = [
    entry("gpt2-nano", text::KJV, 4, "4 layers of width 64 over bytes, windows of 64"),
    entry("gpt2-mini", text::KJV, 4, "6 layers of width 192 over bytes, windows of 128"),
    entry("gpt2", text::KJV, 1, "12 layers of width 768, 124 M parameters"),
    entry("gpt2-medium", text::KJV, 1, "24 layers of width 1024, 355 M parameters"),
    entry("gpt2-large", text::KJV, 1, "36 layers of width 1280, 774 M parameters"),
    entry("gpt2-xl", text::KJV, 1, "48 layers of width 1600, 1558 M parameters"),
    entry(
        "llama-nano",
        text::KJV,
        4,
        "4 layers of width 64 over bytes, grouped queries, windows of 64",
    ),
    entry("tinyllama-1.1b", text::KJV, 1, "22 layers of width 2048, 1100 M parameters"),
    entry("llama-3.2-1b", text::KJV, 1, "16 layers of width 2048, 1236 M parameters"),
    entry("lstm-nano", text::KJV, 4, "2 LSTM layers of width 128 over bytes, windows of 64"),
    entry(
        "lstm-ptb",
        text::KJV,
        20,
        "2 LSTM layers of width 1500 over 10,000 words, 66 M parameters",
    ),
    entry("resnet-tiny", images::DIGITS, 16, "6 convolutions and 2 projections on 8 x 8 digits"),
    entry("resnet8", shapes::SHAPES, 16, "8 layers on 32 x 32 images, 0.08 M parameters"),
    entry("resnet20", images::DIGITS, 16, "20 layers on 32 x 32 images, 0.27 M parameters"),
    entry("resnet32", images::DIGITS, 16, "32 layers on 32 x 32 images, 0.46 M parameters"),
    entry("resnet56", images::DIGITS, 16, "56 layers on 32 x 32 images, 0.85 M parameters"),
    entry("resnet110", images::DIGITS, 16, "110 layers on 32 x 32 images, 1.73 M parameters"),
    entry("resnet18", images::DIGITS, 4, "18 layers on 224 x 224 images, 12 M parameters"),
    entry("resnet34", images::DIGITS, 4, "34 layers on 224 x 224 images, 22 M parameters"),
    entry("resnet50", images::DIGITS, 4, "50 layers on 224 x 224 images, 26 M parameters"),
    entry("resnet101", images::DIGITS, 4, "101 layers on 224 x 224 images, 45 M parameters"),
];

/// Returns all networks, small ones first within a family.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// Returns the names of all networks.
pub fn names() -> Vec<&'static str> {
    ENTRIES.iter().map(|e| e.name).collect()
}

/// Returns what is known of a network by name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|e| e.name == name)
}

/// Builds a network by name with a micro-batch of so many samples, or of its own choice.
///
/// *Errors*: [`DagError`] if the micro-batch is zero or too large. None if there is no such network.
pub fn by_name(name: &str, micro_batch: Option<usize>) -> Option<Result<Dag, DagError>> {
    let entry = find(name)?;
    let micro_batch = micro_batch.unwrap_or(entry.micro_batch);
    let gpt2 = gpt2::Config::named(name).map(|config| gpt2::build(&config, micro_batch));
    let llama = || llama::Config::named(name).map(|config| llama::build(&config, micro_batch));
    let lstm = || lstm::Config::named(name).map(|config| lstm::build(&config, micro_batch));
    gpt2.or_else(llama)
        .or_else(lstm)
        .or_else(|| resnet::Config::named(name).map(|config| resnet::build(&config, micro_batch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_network_builds_and_is_checked() {
        for name in names() {
            let dag = by_name(name, None).unwrap().unwrap();
            assert_eq!(dag.name(), name);
            dag.checked().unwrap();
        }
        assert!(by_name("gpt5", None).is_none());
    }
}
