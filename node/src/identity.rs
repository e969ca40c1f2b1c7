//! A peer's identity: an ed25519 seed in a file that only its owner reads.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};

/// Draws a fresh identity.
///
/// *Errors*: the system's source of randomness fails.
pub fn fresh() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("while drawing a fresh identity")?;
    Ok(seed)
}

/// Reads the identity in a state directory, making both where they are missing.
///
/// *Errors*: the directory cannot be made or read, or the file is not an identity.
pub fn load_or_make(state: &Path) -> anyhow::Result<[u8; 32]> {
    std::fs::create_dir_all(state)
        .with_context(|| format!("while making the state directory {}", state.display()))?;
    let file = state.join("identity");
    match std::fs::read(&file) {
        Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(seed) => Ok(seed),
            Err(_) => bail!(
                "{} holds {} bytes instead of 32; move it away and a fresh identity is made",
                file.display(),
                bytes.len()
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let seed = fresh()?;
            write_private(&file, &seed)?;
            Ok(seed)
        }
        Err(error) => Err(error).with_context(|| format!("while reading {}", file.display())),
    }
}

/// Writes a file that only its owner may read.
///
/// *Errors*: the file exists, or cannot be written.
pub fn write_private(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut out = options.open(file).with_context(|| format!("while making {}", file.display()))?;
    out.write_all(bytes).with_context(|| format!("while writing {}", file.display()))
}
