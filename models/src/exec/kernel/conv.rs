//! Convolution and pooling with their gradients.

use burn_backend::get_or_init_device_settings;
use burn_backend::ops::ConvOptions;
use burn_backend::tensor::Device;
use wattle_protocol::dag::cost::geometry::Geometry;
use wattle_protocol::dag::op::{Conv2d, Pool2d};

use crate::exec::host::{conv as host, window};
use crate::exec::tensor::{Float, HostBackend};

fn options(conv: &Conv2d) -> ConvOptions<2> {
    ConvOptions::new(conv.stride, conv.padding, conv.dilation, conv.groups)
}

/// Height and width of the output.
fn output(x: &[usize], w: &[usize], conv: &Conv2d) -> [usize; 2] {
    [0, 1].map(|a| {
        let reach = conv.dilation[a] * (w[2 + a] - 1) + 1;
        (x[2 + a] + 2 * conv.padding[a] - reach) / conv.stride[a] + 1
    })
}

/// Convolution.
pub fn conv2d<B: HostBackend>(
    x: Float<B>,
    w: Float<B>,
    bias: Option<Float<B>>,
    conv: &Conv2d,
    device: &Device<B>,
) -> Float<B> {
    let (of_x, of_w) = (x.shape(), w.shape());
    let out = output(&of_x, &of_w, conv);
    if let Some(g) = Geometry::tiled(&of_x, &of_w, out, conv)
        && let (Some(x), Some(w)) = (x.host(), w.host())
    {
        let bias = bias.and_then(|b| b.host());
        let y = host::conv2d(&x, &w, bias.as_deref(), &g);
        return Float::new(y, &[g.batch, g.outer, out[0], out[1]], device);
    }
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
    let (of_w, of_g) = (w.shape(), g.shape());
    if let Some(sizes) = Geometry::tiled(shape, &of_w, [of_g[2], of_g[3]], conv)
        && let (Some(w), Some(g)) = (w.host(), g.host())
    {
        return Float::new(host::back::input_grad(&w, &g, &sizes), shape, device);
    }
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
    let (of_x, of_g) = (x.shape(), g.shape());
    if let Some(sizes) = Geometry::tiled(&of_x, shape, [of_g[2], of_g[3]], conv)
        && let (Some(x), Some(g)) = (x.host(), g.host())
    {
        return Float::new(host::weights::weight_grad(&x, &g, &sizes), shape, device);
    }
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
