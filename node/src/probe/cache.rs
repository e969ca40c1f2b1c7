//! What was measured of this machine before: a file for each device, thread count, processor, version of Wattle and [`FORMAT`].
//!
//! Nothing depends on it: a file that is missing, old, or not ours means that the machine is measured again. `wattle probe`
//! always measures.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wattle_protocol::schedule::advert::Hardware;

/// After this a machine is measured again: drivers change, and coolers fill with dust.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Goes up with what is measured, and with kernels that are faster or slower than before.
const FORMAT: u32 = 3;
/// Names the folder to keep measurements in, instead of the user's cache; empty: nowhere.
const FOLDER: &str = "WATTLE_CACHE";

/// Returns where a device's measurements are kept; None: nowhere.
pub(super) fn place(device: &str, threads: u16) -> Option<PathBuf> {
    let folder = match std::env::var_os(FOLDER) {
        Some(folder) if folder.is_empty() => return None,
        Some(folder) => PathBuf::from(folder),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder).join("wattle"),
            _ => PathBuf::from(std::env::var_os("HOME")?).join(".cache").join("wattle"),
        },
    };
    let (version, processor) = (env!("CARGO_PKG_VERSION"), processor());
    let name = format!("{FORMAT} {version} {device} {threads} {processor}");
    Some(folder.join(format!("hardware-{}.json", &blake3::hash(name.as_bytes()).to_hex()[..16])))
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    model.unwrap_or(std::env::consts::ARCH).to_owned()
}

pub(super) fn read(place: &Path) -> Option<Hardware> {
    let age = std::fs::metadata(place).ok()?.modified().ok()?.elapsed();
    let text = std::fs::read_to_string(place).ok().filter(|_| age.is_ok_and(|a| a < AGE_MAX))?;
    serde_json::from_str(&text)
        .inspect_err(|error| tracing::debug!(%error, "an old measurement is not read"))
        .ok()
}

/// Keeps a measurement, if that is possible; the file is whole or not there.
pub(super) fn write(place: &Path, found: &Hardware) {
    let kept = serde_json::to_string(found).map_err(std::io::Error::other).and_then(|text| {
        let folder = place.parent().ok_or(std::io::ErrorKind::NotFound)?;
        std::fs::create_dir_all(folder)?;
        let mut part = tempfile::NamedTempFile::new_in(folder)?;
        part.write_all(text.as_bytes())?;
        part.persist(place).map_err(|error| error.error)
    });
    if let Err(error) = kept {
        tracing::debug!(%error, "the measurement is not kept");
    }
}

#[cfg(test)]
mod tests {
    use wattle_protocol::schedule::kinds::Kinds;
    use wattle_protocol::units::{Bytes, Duration, Rate, Speed};

    use super::*;

    #[test]
    fn a_measurement_comes_back_and_anything_else_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep").join("hardware.json");
        let found = Hardware {
            device: "cpu".into(),
            speed: Speed::from_flops_per_second(7),
            conv_speed: Speed::from_flops_per_second(5),
            vector_speed: Speed::from_flops_per_second(3),
            touch_rate: Rate::from_bytes_per_second(2),
            overhead: Duration::from_micros(1),
            kinds: Kinds { norms: 1700, ..Kinds::default() },
            memory: Bytes::ZERO,
            host: 0,
            host_capacity: 0,
            demand: 0,
        };
        assert_eq!(read(&place), None);
        write(&place, &found);
        assert_eq!(read(&place), Some(found));
        std::fs::write(&place, "{}").unwrap();
        assert_eq!(read(&place), None);
    }
}
