//! What the numbers are: the only room that knows burn.
//!
//! Reading order: [`exec`] (tasks on a device), [`optim`] and [`init`] (how parameters change and start), [`data`]
//! (samples), [`zoo`] (networks), [`single`] (a whole job in one process), [`weights`] (checkpoint files),
//! [`huggingface`] (folders of other tools), [`onnx`] (networks that other tools wrote) with [`npz`] (their arrays),
//! [`losses`] (what such networks are trained on), [`bench`] (how fast this machine is), [`suite`] (small networks that
//! show every operator right).

pub mod bench;
pub mod data;
pub mod exec;
pub mod huggingface;
pub mod init;
pub mod losses;
pub mod npz;
pub mod onnx;
pub mod optim;
pub mod single;
pub mod suite;
pub mod weights;
pub mod zoo;

#[cfg(test)]
mod tests;

pub use exec::{DeviceChoice, DeviceError, Executor, Flight, Flights, Store};
pub use single::{on_one_thread, run_single};
