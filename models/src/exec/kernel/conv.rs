//! Convolution and pooling with their gradients.

use burn_backend::get_or_init_device_settings;
use burn_backend::ops::ConvOptions;
use burn_backend::tensor::Device;
use wattle_protocol::dag::op::{Conv2d, Pool2d};

use crate::exec::host::window;
use crate::exec::tensor::{Float, HostBackend};

fn options(conv: &Conv2d) -> ConvOptions<2> {
    ConvOptions::new(conv.stride, conv.padding, conv.dilation, conv.groups)
}

/// Convolution.
pub fn conv2d<B: HostBackend>(
    x: Float<B>,
    w: Float<B>,
    bias: Option<Float<B>>,
    conv: &Conv2d,
) -> Float<B> {
    Float(B::conv2d(x.0, w.0, bias.map(|b| b.0), options(conv)))
}

/// Gradient of the input.
pub fn input_grad<B: HostBackend>(
    w: Float<B>,
    g: Float<B>,
    conv: &Conv2d,
    shape: &[usize; 4],
    device: &Device<B>,
) -> Float<B> {
    // The primitive reads nothing of x but its shape.
    let x = Float::<B>::full(0.0, shape, device);
    Float(B::conv2d_x_backward(x.0, w.0, g.0, options(conv)))
}

/// Gradient of the weights.
pub fn weight_grad<B: HostBackend>(
    x: Float<B>,
    g: Float<B>,
    conv: &Conv2d,
    shape: &[usize; 4],
    device: &Device<B>,
) -> Float<B> {
    // The primitive reads nothing of w but its shape.
    let w = Float::<B>::full(0.0, shape, device);
    Float(B::conv2d_weight_backward(x.0, w.0, g.0, options(conv)))
}

/// Max pooling.
pub fn max_pool<B: HostBackend>(x: Float<B>, pool: &Pool2d) -> Float<B> {
    Float(B::max_pool2d(x.0, pool.kernel, pool.stride, pool.padding, [1, 1], false))
}

/// Gradient of max pooling.
pub fn max_pool_grad<B: HostBackend>(
    x: Float<B>,
    g: Float<B>,
    pool: &Pool2d,
    device: &Device<B>,
) -> Float<B> {
    let (shape, out) = (x.shape(), g.shape());
    if let (Some(x), Some(g)) = (x.host(), g.host()) {
        let size = ([shape[2], shape[3]], [out[2], out[3]]);
        return Float::new(window::max_pool_grad(&x, &g, pool, size.0, size.1), &shape, device);
    }
    let ints = get_or_init_device_settings::<B>(device).int_dtype;
    let (kernel, stride, padding) = (pool.kernel, pool.stride, pool.padding);
    let found =
        B::max_pool2d_with_indices(x.0.clone(), kernel, stride, padding, [1, 1], false, ints);
    let back = B::max_pool2d_with_indices_backward(
        x.0,
        kernel,
        stride,
        padding,
        [1, 1],
        false,
        g.0,
        found.indices,
    );
    Float(back.x_grad)
}

/// Average pooling; zeros of the padding count.
pub fn avg_pool<B: HostBackend>(x: Float<B>, pool: &Pool2d) -> Float<B> {
    Float(B::avg_pool2d(x.0, pool.kernel, pool.stride, pool.padding, true, false))
}

/// Gradient of average pooling.
pub fn avg_pool_grad<B: HostBackend>(
    g: Float<B>,
    pool: &Pool2d,
    shape: &[usize; 4],
    device: &Device<B>,
) -> Float<B> {
    // The primitive reads nothing of x but its shape.
    let x = Float::<B>::full(0.0, shape, device);
    let (kernel, stride, padding) = (pool.kernel, pool.stride, pool.padding);
    Float(B::avg_pool2d_backward(x.0, g.0, kernel, stride, padding, true, false))
}
