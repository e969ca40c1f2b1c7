//! When a person or the system asks this process to end: Ctrl-C, and on Unix the signal that `kill` and services send.

use std::io;

/// Waits until this process is asked to end. Safe to drop midway; from the first call on, being asked does not
/// end the process by itself.
///
/// *Errors*: signals cannot be listened to.
pub async fn asked_to_end() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            asked = tokio::signal::ctrl_c() => asked,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await
    }
}
