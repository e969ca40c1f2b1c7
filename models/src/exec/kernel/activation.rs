//! Activations, their gradients, and dropout.

use burn_backend::tensor::Device;

use crate::exec::host::activation as host;
use crate::exec::tensor::{Float, HostBackend, both};

/// `sqrt(2 / pi)`.
const ROOT: f32 = 0.797_884_6;
/// Factor of the cubic term of GELU's tanh form.
const CUBIC: f32 = 0.044_715;

/// `max(x, 0)`.
pub fn relu<B: HostBackend>(x: Float<B>, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let x = match x.take() {
        Ok(x) => return Float::new(host::relu(x), &shape, device),
        Err(x) => x,
    };
    Float(B::relu(x.0))
}

/// g where y is above zero.
pub fn relu_grad<B: HostBackend>(y: Float<B>, g: Float<B>, device: &Device<B>) -> Float<B> {
    let shape = y.shape();
    let (y, g) = match both(y, g) {
        Ok([y, g]) => return Float::new(host::relu_grad(y, g), &shape, device),
        Err(both) => both,
    };
    g.fill_where_not_positive(y, 0.0, device)
}

/// The tanh of GELU's tanh form.
fn inner_tanh<B: HostBackend>(x: Float<B>) -> Float<B> {
    let square = x.clone().mul(x.clone());
    x.mul(square.scale(CUBIC).shift(1.0)).scale(ROOT).tanh()
}

/// GELU, tanh form.
pub fn gelu_tanh<B: HostBackend>(x: Float<B>, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let x = match x.take() {
        Ok(x) => return Float::new(host::gelu_tanh(x), &shape, device),
        Err(x) => x,
    };
    let t = inner_tanh(x.clone());
    x.scale(0.5).mul(t.shift(1.0))
}

/// Gradient of GELU's tanh form.
pub fn gelu_tanh_grad<B: HostBackend>(x: Float<B>, g: Float<B>, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let (x, g) = match both(x, g) {
        Ok([x, g]) => return Float::new(host::gelu_tanh_grad(x, g), &shape, device),
        Err(both) => both,
    };
    let t = inner_tanh(x.clone());
    let square = x.clone().mul(x.clone());
    let slope = square.scale(3.0 * CUBIC).shift(1.0).scale(ROOT);
    let bell = t.clone().mul(t.clone()).scale(-1.0).shift(1.0);
    let right = x.scale(0.5).mul(bell).mul(slope);
    g.mul(t.shift(1.0).scale(0.5).add(right))
}

/// `(1 + erf(x / sqrt 2)) / 2`: the normal distribution function.
fn normal<B: HostBackend>(x: Float<B>) -> Float<B> {
    let erf = Float(B::float_erf(x.scale(std::f32::consts::FRAC_1_SQRT_2).0));
    erf.shift(1.0).scale(0.5)
}

/// GELU, erf form.
pub fn gelu_erf<B: HostBackend>(x: Float<B>) -> Float<B> {
    x.clone().mul(normal(x))
}

/// Gradient of GELU's erf form.
pub fn gelu_erf_grad<B: HostBackend>(x: Float<B>, g: Float<B>) -> Float<B> {
    /// `1 / sqrt(2 pi)`.
    const DENSITY: f32 = 0.398_942_3;
    let density = x.clone().mul(x.clone()).scale(-0.5).exp().scale(DENSITY);
    g.mul(normal(x.clone()).add(x.mul(density)))
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid<B: HostBackend>(x: Float<B>, device: &Device<B>) -> Float<B> {
    let shape = x.shape();
    let x = match x.take() {
        Ok(x) => return Float::new(host::sigmoid(x), &shape, device),
        Err(x) => x,
    };
    Float(B::sigmoid(x.0))
}

/// x times a mask drawn from the key.
pub fn dropout<B: HostBackend>(x: Float<B>, key: u64, rate: f32, device: &Device<B>) -> Float<B> {
    if rate <= 0.0 {
        return x;
    }
    let shape = x.shape();
    let mask = host::dropout_mask(key, rate, shape.iter().product());
    x.mul(Float::new(mask, &shape, device))
}
