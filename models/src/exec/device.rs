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

/// Opens a device afresh after its loss. Several executors that lost the same one share the fresh one.
///
/// *Errors*: [`DeviceError::NoAdapter`] where the adapter gives no other device.
pub(super) fn reopen(lost: &Device<Dispatch>) -> Result<OpenDevice, DeviceError> {
    let cpu = cpu();
    if *lost == cpu.device {
        return Ok(cpu);
    }
    gpu::reopen(lost)
}

/// Returns the device whose tensors lie in host memory.
pub(super) fn host() -> Device<Dispatch> {
    BurnDevice::flex().as_dispatch().clone()
}

fn cpu() -> OpenDevice {
    let device = host();
    OpenDevice { device, name: "cpu".into(), gpu: false }
}

#[cfg(feature = "wgpu")]
mod gpu {
    use std::panic::catch_unwind;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use burn::tensor::wgpu::{WgpuSetup, wgpu};
    use burn_std::{RuntimeKind, set_runtime_kind};

    use super::{BurnDevice, Device, DeviceError, Dispatch, OpenDevice};

    /// An open device with what it was opened with.
    #[derive(Clone)]
    struct Opened {
        open: OpenDevice,
        setup: WgpuSetup,
    }

    /// The process's device: a second set-up of the same adapter by its selector is an error.
    static DEVICE: Mutex<Option<Result<Opened, DeviceError>>> = Mutex::new(None);

    fn device() -> MutexGuard<'static, Option<Result<Opened, DeviceError>>> {
        // A value that is replaced as a whole is whole after any panic.
        DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the adapter, once.
    pub(super) fn open() -> Result<OpenDevice, DeviceError> {
        device().get_or_insert_with(set_up).clone().map(|opened| opened.open)
    }

    fn no_adapter(error: impl std::fmt::Display) -> DeviceError {
        DeviceError::NoAdapter(error.to_string())
    }

    fn set_up() -> Result<Opened, DeviceError> {
        // Reads begin when they are asked for; else burn would begin them when their bytes are looked at.
        set_runtime_kind(RuntimeKind::Async);
        let found = catch_unwind(|| BurnDevice::wgpu_options().init_with_setup());
        let found = found.map_err(|_| no_adapter("the graphics driver failed"))?;
        let (device, setup) = found.map_err(no_adapter)?;
        Ok(opened(&device, setup))
    }

    fn opened(device: &BurnDevice, setup: WgpuSetup) -> Opened {
        let info = setup.adapter.get_info();
        let software = format!("{:?}", info.device_type) == "Cpu";
        let name = format!("{} ({:?})", info.name, info.backend);
        let open = OpenDevice { device: device.as_dispatch().clone(), name, gpu: !software };
        Opened { open, setup }
    }

    /// Takes the place of a lost device, unless another executor has done so.
    pub(super) fn reopen(lost: &Device<Dispatch>) -> Result<OpenDevice, DeviceError> {
        let mut device = device();
        match &*device {
            Some(Ok(opened)) if opened.open.device == *lost => {
                let fresh = set_up_again(&opened.setup)?;
                let open = fresh.open.clone();
                *device = Some(Ok(fresh));
                Ok(open)
            }
            Some(found) => found.clone().map(|opened| opened.open),
            None => Err(no_adapter("it was never opened")),
        }
    }

    /// Asks the same adapter for another device. burn never forgets a device that it has registered under a selector;
    /// it takes any number of devices that are handed to it.
    fn set_up_again(old: &WgpuSetup) -> Result<Opened, DeviceError> {
        let experimental = wgpu::Features::all_experimental_mask();
        let descriptor = wgpu::DeviceDescriptor {
            required_features: old.device.features().difference(experimental),
            required_limits: old.device.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let asked = burn_backend::try_read_sync(old.adapter.request_device(&descriptor));
        let (device, queue) =
            asked.ok_or_else(|| no_adapter("it takes too long"))?.map_err(no_adapter)?;
        let setup = WgpuSetup { device, queue, ..old.clone() };
        let device = BurnDevice::wgpu_options().setup(setup.clone()).init().map_err(no_adapter)?;
        Ok(opened(&device, setup))
    }

    /// Destroys the process's device, as a driver's reset does.
    #[cfg(test)]
    pub(super) fn lose() {
        if let Some(Ok(opened)) = &*device() {
            opened.setup.device.destroy();
        }
    }
}

#[cfg(not(feature = "wgpu"))]
mod gpu {
    use super::{Device, DeviceError, Dispatch, OpenDevice};

    pub(super) fn open() -> Result<OpenDevice, DeviceError> {
        Err(DeviceError::NoAdapter("this program was built without wgpu".into()))
    }

    pub(super) fn reopen(_lost: &Device<Dispatch>) -> Result<OpenDevice, DeviceError> {
        open()
    }

    #[cfg(test)]
    pub(super) fn lose() {}
}

/// Destroys the process's GPU device, as a driver's reset does.
#[cfg(test)]
pub(crate) fn lose_gpu() {
    gpu::lose();
}
