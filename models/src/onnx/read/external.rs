//! Weights in files beside the model: read by offset and length, from the model's own folder only.
//!
//! A model from a stranger must not make us read other files: no absolute path, no `..`, and no link that leads out of
//! the folder. What is read is checked against the file's real length before memory is taken for it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::onnx::proto::Entry;

/// The folder in which a model lies.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Returns the folder of a model file.
    pub(crate) fn of(model: &Path) -> Self {
        let folder = model.parent().filter(|p| !p.as_os_str().is_empty());
        Self(folder.unwrap_or_else(|| Path::new(".")).to_owned())
    }

    /// Reads the bytes that a tensor's entries name; `expected` is what its shape needs.
    ///
    /// *Errors*: in words, without the tensor's name.
    pub(crate) fn read(&self, entries: &[Entry], expected: usize) -> Result<Vec<u8>, String> {
        let place = Place::of(entries)?;
        if place.length.is_some_and(|length| length != expected as u64) {
            let length = place.length.unwrap_or_default();
            return Err(format!("{length} bytes lie outside, but the shape needs {expected}"));
        }
        let path = self.resolve(place.location)?;
        let io = |error: std::io::Error| format!("{} cannot be read: {error}", place.location);
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let end = place.offset.checked_add(expected as u64);
        if !metadata.is_file() || end.is_none_or(|end| end > metadata.len()) {
            return Err(format!(
                "{expected} bytes from {} are not there: {} has {}",
                place.offset,
                place.location,
                metadata.len()
            ));
        }
        file.seek(SeekFrom::Start(place.offset)).map_err(io)?;
        let mut bytes = vec![0; expected];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, String> {
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        let relative = Path::new(location);
        if location.is_empty() || location.contains(['\\', '\0']) {
            return Err(format!("{location:?} is no file name"));
        }
        if !relative.components().all(plain) {
            return Err(format!("{location:?} lies outside the model's folder"));
        }
        let io = |error: std::io::Error| format!("{location:?} cannot be opened: {error}");
        let folder = self.0.canonicalize().map_err(io)?;
        let path = folder.join(relative).canonicalize().map_err(io)?;
        if path.starts_with(&folder) {
            return Ok(path);
        }
        Err(format!("{location:?} is a link that leads out of the model's folder"))
    }
}

struct Place<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> Place<'a> {
    fn of(entries: &'a [Entry]) -> Result<Self, String> {
        let find = |key: &str| entries.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match find(key) {
            Some(text) => {
                text.parse::<u64>().map(Some).map_err(|_| format!("its {key} is {text:?}"))
            }
            None => Ok(None),
        };
        let location = find("location").ok_or("it lies outside, but no file is named")?;
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(location: &str, offset: &str) -> Vec<Entry> {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        vec![entry("location", location), entry("offset", offset)]
    }

    #[test]
    fn only_files_of_the_models_folder_are_read() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("model");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(outer.path().join("secret"), [7; 16]).unwrap();
        std::fs::write(inner.join("weights"), [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let folder = Folder::of(&inner.join("model.onnx"));
        assert_eq!(folder.read(&entries("weights", "4"), 4).unwrap(), [5, 6, 7, 8]);
        assert_eq!(folder.read(&entries("./weights", "0"), 2).unwrap(), [1, 2]);
        let absolute = outer.path().join("secret").display().to_string();
        for location in ["../secret", "a/../../secret", &absolute, "", ".", "..\\secret"] {
            assert!(folder.read(&entries(location, "0"), 4).is_err(), "{location}");
        }
        assert!(folder.read(&entries("weights", "5"), 4).is_err());
        assert!(folder.read(&entries("weights", "18446744073709551615"), 4).is_err());
        assert!(folder.read(&entries("weights", "-1"), 4).is_err());
        assert!(folder.read(&entries("weights", "0"), usize::MAX / 2).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("model");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(outer.path().join("secret"), [7; 16]).unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret"), inner.join("weights")).unwrap();
        let folder = Folder::of(&inner.join("model.onnx"));
        let error = folder.read(&entries("weights", "0"), 4).unwrap_err();
        assert!(error.contains("leads out"), "{error}");
    }
}
