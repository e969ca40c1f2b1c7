//! What went wrong on a device, from what burn says about it: a panic's text or an error's.
//!
//! burn reports misfitting shapes and some device failures as panics, and a lost device as an error of whatever is read
//! next. The swarm tells three kinds apart: too little memory, a device that is gone, and a mistake.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn_backend::ExecutionError;
use wattle_protocol::swarm::io::TaskError;

/// What graphics drivers, wgpu and cubecl say of a device that is gone.
const LOST: [&str; 7] = [
    "device lost",
    "device_lost",
    "device is lost",
    "device was lost",
    "parent device",
    "device is poisoned",
    "device was poisoned",
];
/// What a panic for want of memory says.
const NO_MEMORY: [&str; 4] =
    ["out of memory", "capacity overflow", "memory allocation", "not enough memory"];
/// What a device's error for want of memory says; a panic with these words may mean anything.
const NO_DEVICE_MEMORY: [&str; 3] = ["memory", "alloc", "too large"];

/// Runs a task's work, and turns a panic into an error.
pub(crate) fn contain<T>(f: impl FnOnce() -> Result<T, TaskError>) -> Result<T, TaskError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string()))
            .unwrap_or_else(|| "a panic without a message".into());
        Err(of_panic(&text))
    })
}

fn of_panic(text: &str) -> TaskError {
    let text = without_backtrace(text);
    match text.to_lowercase() {
        lower if says(&lower, &LOST) => TaskError::DeviceLost(text),
        lower if says(&lower, &NO_MEMORY) => TaskError::OutOfMemory(text),
        _ => TaskError::Panicked(text),
    }
}

/// Turns a device's error into the swarm's.
pub(super) fn device_error(error: &ExecutionError) -> TaskError {
    of_device(&error.to_string())
}

fn of_device(text: &str) -> TaskError {
    let text = without_backtrace(text);
    let lower = text.to_lowercase();
    if !says(&lower, &LOST) && says(&lower, &NO_DEVICE_MEMORY) {
        return TaskError::OutOfMemory(text);
    }
    TaskError::DeviceLost(text)
}

fn says(lower: &str, words: &[&str]) -> bool {
    words.iter().any(|word| lower.contains(word))
}

/// Keeps what comes before a backtrace: its frames speak of allocators whatever has happened.
fn without_backtrace(text: &str) -> String {
    text.split("\nBacktrace").next().unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_is_told_from_too_little_memory_and_from_a_mistake() {
        let lost = [
            "wgpu error: Parent device is lost",
            "The device is poisoned\nCaused by:\n  Unknown: reset\nBacktrace:\n  0: alloc::vec",
            "VK_ERROR_DEVICE_LOST",
        ];
        for text in lost {
            assert!(matches!(of_panic(text), TaskError::DeviceLost(t) if !t.contains("alloc")));
            assert!(matches!(of_device(text), TaskError::DeviceLost(t) if !t.contains("alloc")));
        }
        for text in ["capacity overflow", "wgpu error: Out of Memory"] {
            assert!(matches!(of_panic(text), TaskError::OutOfMemory(_)));
        }
        assert!(matches!(of_device("the buffer is too large"), TaskError::OutOfMemory(_)));
        assert!(matches!(of_panic("the shapes do not fit"), TaskError::Panicked(_)));
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let result: Result<(), _> = contain(|| panic!("device lost"));
        assert!(matches!(result, Err(TaskError::DeviceLost(_))));
    }
}
