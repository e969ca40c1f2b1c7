//! Device names as people type them.

use anyhow::bail;
use wattle_models::exec::DeviceChoice;

/// Reads a device name.
///
/// *Errors*: another name than `cpu`, `wgpu` or `auto`.
pub fn choice(name: &str) -> anyhow::Result<DeviceChoice> {
    match name {
        "cpu" => Ok(DeviceChoice::Cpu),
        "wgpu" => Ok(DeviceChoice::Wgpu),
        "auto" => Ok(DeviceChoice::Auto),
        other => bail!("there is no device \"{other}\"; use cpu, wgpu or auto"),
    }
}
