//! Which device computes: the CPU in pure Rust, or a GPU through wgpu. Chosen at run time; both are in one binary.

use std::fmt;
use std::str::FromStr;

use burn::backend::Dispatch;
use burn::tensor::Device as BurnDevice;
use burn_backend::tensor::Device;

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The best adapter that wgpu finds, even one that runs in software.
    Wgpu,
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu),
            _ => Err(DeviceError::Unknown(text.into())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
        })
    }
}

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such choice.
    #[error("there is no device {0}; there are auto, cpu and wgpu")]
    Unknown(String),
    /// wgpu finds no adapter.
    #[error("no GPU can be used: {0}")]
    NoAdapter(String),
    /// A thread for arithmetic does not start.
    #[error("a thread for arithmetic does not start: {0}")]
    NoThread(String),
}

/// A device with its name for people.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// The device.
    pub device: Device<Dispatch>,
    /// Its name.
    pub name: String,
    /// Whether it is a GPU.
    pub gpu: bool,
}

/// Opens a device.
///
/// *Errors*: [`DeviceError::NoAdapter`] where wgpu was asked for and there is none.
pub fn open(choice: DeviceChoice) -> Result<OpenDevice, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Wgpu => gpu::open(),
        DeviceChoice::Auto => Ok(gpu::open().ok().filter(|d| d.gpu).unwrap_or_else(cpu)),
    }
}

fn cpu() -> OpenDevice {
    let device = BurnDevice::flex().as_dispatch().clone();
    OpenDevice { device, name: "cpu".into(), gpu: false }
}

#[cfg(feature = "wgpu")]
mod gpu {
    use std::panic::catch_unwind;
    use std::sync::OnceLock;

    use super::{BurnDevice, DeviceError, OpenDevice};

    /// Opens the adapter once: a second set-up of the same adapter in a process is an error.
    pub(super) fn open() -> Result<OpenDevice, DeviceError> {
        static DEVICE: OnceLock<Result<OpenDevice, DeviceError>> = OnceLock::new();
        DEVICE.get_or_init(set_up).clone()
    }

    fn set_up() -> Result<OpenDevice, DeviceError> {
        let found = catch_unwind(|| BurnDevice::wgpu_options().init_with_setup());
        let found =
            found.map_err(|_| DeviceError::NoAdapter("the graphics driver failed".into()))?;
        let (device, setup) = found.map_err(|e| DeviceError::NoAdapter(e.to_string()))?;
        let info = setup.adapter.get_info();
        let software = format!("{:?}", info.device_type) == "Cpu";
        let name = format!("{} ({:?})", info.name, info.backend);
        Ok(OpenDevice { device: device.as_dispatch().clone(), name, gpu: !software })
    }
}

#[cfg(not(feature = "wgpu"))]
mod gpu {
    use super::{DeviceError, OpenDevice};

    pub(super) fn open() -> Result<OpenDevice, DeviceError> {
        Err(DeviceError::NoAdapter("this program was built without wgpu".into()))
    }
}
