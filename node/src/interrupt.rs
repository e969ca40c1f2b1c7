//! When a person or the system asks this process to end: Ctrl-C, and on Unix the signal that `kill` and services send.

use std::io;

/// Listens from here on, and returns what waits until this process is asked to end. Safe to drop midway; being asked
/// does not end the process by itself from here on.
///
/// *Errors*: signals cannot be listened to.
pub fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(windows)]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c()?;
        Ok(async move {
            interrupt.recv().await;
        })
    }
}
