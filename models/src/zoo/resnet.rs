//! `ResNet`: convolutions with batch normalisation and residual shortcuts.
//!
//! *Source*: He et al. 2016; names and layouts as in torchvision, the stride of a bottleneck in its 3 x 3 convolution.

use wattle_protocol::dag::op::{Conv2d, Op, Pool2d, Targets};
use wattle_protocol::dag::{Dag, DagBuilder, DagError, Fact, Init};
use wattle_protocol::ids::ValueId;

/// What a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Two 3 x 3 convolutions.
    Basic,
    /// 1 x 1, 3 x 3, 1 x 1 to four times the width.
    Bottleneck,
}

/// What comes before the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 3 x 3, stride 1: for small images.
    Small,
    /// 7 x 7, stride 2, then max pooling: for images of some 224 pixels.
    Large,
}

/// What goes around a block that changes the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// A 1 x 1 convolution with normalisation (option B of the paper, section 3.3).
    Projection,
    /// Every second pixel of each second row, and zeros for the further channels, half of them on either side; without
    /// parameters (option A).
    Padding,
}

/// Sizes of a `ResNet`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the network.
    pub name: String,
    /// Channels, height and width of an image.
    pub image: [usize; 3],
    /// What comes before the blocks.
    pub stem: Stem,
    /// What a block is made of.
    pub block: Block,
    /// What goes around a block that changes the shape.
    pub shortcut: Shortcut,
    /// Channels of the stem; each group of blocks but the first doubles its width.
    pub width: usize,
    /// Blocks in each group.
    pub blocks: Vec<usize>,
    /// Classes.
    pub classes: usize,
}

impl Config {
    /// Returns the sizes of a named `ResNet`.
    pub fn named(name: &str) -> Option<Self> {
        let (block, blocks) = match name {
            "resnet-tiny" => (Block::Basic, vec![1, 1, 1]),
            // Of 6 n + 2 layers, for CIFAR-10 (section 4.2).
            "resnet8" => (Block::Basic, vec![1; 3]),
            "resnet20" => (Block::Basic, vec![3; 3]),
            "resnet32" => (Block::Basic, vec![5; 3]),
            "resnet56" => (Block::Basic, vec![9; 3]),
            "resnet110" => (Block::Basic, vec![18; 3]),
            "resnet18" => (Block::Basic, vec![2, 2, 2, 2]),
            "resnet34" => (Block::Basic, vec![3, 4, 6, 3]),
            "resnet50" => (Block::Bottleneck, vec![3, 4, 6, 3]),
            "resnet101" => (Block::Bottleneck, vec![3, 4, 23, 3]),
            _ => return None,
        };
        let (image, stem, width, classes) = match name {
            "resnet-tiny" => ([1, 8, 8], Stem::Small, 16, 10),
            "resnet8" | "resnet20" | "resnet32" | "resnet56" | "resnet110" => {
                ([3, 32, 32], Stem::Small, 16, 10)
            }
            _ => ([3, 224, 224], Stem::Large, 64, 1000),
        };
        let shortcut = if image == [3, 32, 32] { Shortcut::Padding } else { Shortcut::Projection };
        Some(Self { name: name.into(), image, stem, block, shortcut, width, blocks, classes })
    }
}

/// Added to the variance in batch normalisation.
const EPS: f32 = 1e-5;
/// Share of a micro-batch's statistics in the running ones.
const MOMENTUM: f32 = 0.1;

/// A convolution's window and step.
#[derive(Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
}

struct Network {
    b: DagBuilder,
    shortcut: Shortcut,
}

/// Builds the network with its loss: inputs `images`, f32 `[batch, channels, height, width]`, and `labels`, i32 `[batch]`.
///
/// *Errors*: [`DagError`] if the sizes do not fit together.
#[expect(clippy::cast_precision_loss, reason = "widths are small")]
pub fn build(config: &Config, batch: usize) -> Result<Dag, DagError> {
    let b = DagBuilder::new(config.name.clone());
    let mut net = Network { b, shortcut: config.shortcut };
    let [channels, height, width] = config.image;
    let images = net.b.input("images", Fact::f32(&[batch, channels, height, width]));
    let labels = net.b.input("labels", Fact::i32(&[batch]));
    let mut x = net.stem(config, images)?;
    for (group, count) in config.blocks.iter().enumerate() {
        let width = config.width << group;
        for block in 0..*count {
            let stride = if group > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", group + 1);
            x = match config.block {
                Block::Basic => net.basic(&name, x, width, stride)?,
                Block::Bottleneck => net.bottleneck(&name, x, width, stride)?,
            };
        }
    }
    let pooled = net.b.op("avgpool", Op::ReduceMean { axes: vec![2, 3], keep: false }, &[x])?;
    let inner = net.b.fact(pooled).shape[1];
    let bound = Init::Uniform(1.0 / (inner as f32).sqrt());
    let weight = net.b.parameter("fc.weight", &[config.classes, inner], bound, true);
    let bias = net.b.parameter("fc.bias", &[config.classes], bound, false);
    let product = Op::MatMul { transpose_a: false, transpose_b: true };
    let logits = net.b.op("fc.product", product, &[pooled, weight])?;
    let logits = net.b.op("fc", Op::Add, &[logits, bias])?;
    let loss = net.b.op("loss", Op::CrossEntropy(Targets::default()), &[logits, labels])?;
    net.b.output(loss);
    net.b.finish()
}

impl Network {
    fn stem(&mut self, config: &Config, images: ValueId) -> Result<ValueId, DagError> {
        let window = match config.stem {
            Stem::Small => Window { kernel: 3, stride: 1 },
            Stem::Large => Window { kernel: 7, stride: 2 },
        };
        let x = self.conv("conv1", images, config.width, window)?;
        let x = self.batch_norm("bn1", x)?;
        let x = self.b.op("relu", Op::Relu, &[x])?;
        match config.stem {
            Stem::Small => Ok(x),
            Stem::Large => {
                let pool = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
                self.b.op("maxpool", Op::MaxPool2d(pool), &[x])
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "fans are small")]
    fn conv(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        window: Window,
    ) -> Result<ValueId, DagError> {
        let Window { kernel, stride } = window;
        let shape = [out, self.b.fact(x).shape[1], kernel, kernel];
        // He initialisation over the fan-out.
        let spread = (2.0 / (out * kernel * kernel).max(1) as f32).sqrt();
        let weight = self.b.parameter(format!("{name}.weight"), &shape, Init::Normal(spread), true);
        let conv =
            Conv2d { stride: [stride; 2], padding: [kernel / 2; 2], dilation: [1, 1], groups: 1 };
        self.b.op(name, Op::Conv2d(conv), &[x, weight])
    }

    fn batch_norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, DagError> {
        let shape = [self.b.fact(x).shape[1]];
        let (one, zero) = (Init::Constant(1.0), Init::Constant(0.0));
        let gain = self.b.parameter(format!("{name}.weight"), &shape, one, false);
        let bias = self.b.parameter(format!("{name}.bias"), &shape, zero, false);
        let mean = self.b.buffer(format!("{name}.running_mean"), &shape, zero);
        let variance = self.b.buffer(format!("{name}.running_var"), &shape, one);
        let outputs = self.b.apply(name, Op::BatchNorm { eps: EPS }, &[x, gain, bias])?;
        self.b.update(mean, outputs[1], MOMENTUM)?;
        self.b.update(variance, outputs[2], MOMENTUM)?;
        Ok(outputs[0])
    }

    /// Returns x, made to fit where the block changes its shape.
    fn shortcut(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        stride: usize,
    ) -> Result<ValueId, DagError> {
        if stride == 1 && self.b.fact(x).shape[1] == out {
            return Ok(x);
        }
        if self.shortcut == Shortcut::Padding {
            return self.padded(name, x, out, stride);
        }
        let window = Window { kernel: 1, stride };
        let x = self.conv(&format!("{name}.downsample.0"), x, out, window)?;
        self.batch_norm(&format!("{name}.downsample.1"), x)
    }

    fn padded(
        &mut self,
        name: &str,
        x: ValueId,
        out: usize,
        stride: usize,
    ) -> Result<ValueId, DagError> {
        // A window of one pixel: the average is the pixel itself.
        let every = Pool2d { kernel: [1, 1], stride: [stride; 2], padding: [0, 0] };
        let x = self.b.op(format!("{name}.shortcut.pixels"), Op::AvgPool2d(every), &[x])?;
        let start = out.saturating_sub(self.b.fact(x).shape[1]) / 2;
        self.b.op(format!("{name}.shortcut"), Op::Unslice { axis: 1, start, len: out }, &[x])
    }

    /// Convolution and normalisation number `at` of a block.
    fn unit(
        &mut self,
        name: &str,
        at: usize,
        x: ValueId,
        out: usize,
        window: Window,
    ) -> Result<ValueId, DagError> {
        let x = self.conv(&format!("{name}.conv{at}"), x, out, window)?;
        self.batch_norm(&format!("{name}.bn{at}"), x)
    }

    fn relu(&mut self, name: &str, at: usize, x: ValueId) -> Result<ValueId, DagError> {
        self.b.op(format!("{name}.relu{at}"), Op::Relu, &[x])
    }

    fn basic(
        &mut self,
        name: &str,
        x: ValueId,
        width: usize,
        stride: usize,
    ) -> Result<ValueId, DagError> {
        let h = self.unit(name, 1, x, width, Window { kernel: 3, stride })?;
        let h = self.relu(name, 1, h)?;
        let h = self.unit(name, 2, h, width, Window { kernel: 3, stride: 1 })?;
        let x = self.shortcut(name, x, width, stride)?;
        let x = self.b.op(format!("{name}.add"), Op::Add, &[h, x])?;
        self.relu(name, 2, x)
    }

    fn bottleneck(
        &mut self,
        name: &str,
        x: ValueId,
        width: usize,
        stride: usize,
    ) -> Result<ValueId, DagError> {
        let point = Window { kernel: 1, stride: 1 };
        let h = self.unit(name, 1, x, width, point)?;
        let h = self.relu(name, 1, h)?;
        let h = self.unit(name, 2, h, width, Window { kernel: 3, stride })?;
        let h = self.relu(name, 2, h)?;
        let h = self.unit(name, 3, h, 4 * width, point)?;
        let x = self.shortcut(name, x, 4 * width, stride)?;
        let x = self.b.op(format!("{name}.add"), Op::Add, &[h, x])?;
        self.relu(name, 3, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_those_of_torchvision() {
        let published = [
            ("resnet18", 11_689_512),
            ("resnet34", 21_797_672),
            ("resnet50", 25_557_032),
            ("resnet101", 44_549_160),
        ];
        for (name, count) in published {
            let dag = build(&Config::named(name).unwrap(), 1).unwrap();
            assert_eq!(dag.parameter_count(), count, "{name}");
        }
    }

    /// The paper's table 6 gives 0.27, 0.46, 0.85 and 1.7 million.
    #[test]
    fn parameter_counts_for_small_images_are_those_of_the_paper() {
        let published = [
            // Of the same family, though not in the table.
            ("resnet8", 75_290u32, "0.08"),
            ("resnet20", 269_722, "0.27"),
            ("resnet32", 464_154, "0.46"),
            ("resnet56", 853_018, "0.85"),
            ("resnet110", 1_727_962, "1.73"),
        ];
        for (name, count, millions) in published {
            let dag = build(&Config::named(name).unwrap(), 1).unwrap();
            assert_eq!(dag.parameter_count(), u64::from(count), "{name}");
            assert_eq!(format!("{:.2}", f64::from(count) / 1e6), millions, "{name}");
            let convolutions = dag.nodes().iter().filter(|n| matches!(n.op, Op::Conv2d(_))).count();
            assert_eq!(name, format!("resnet{}", convolutions + 1));
        }
    }

    #[test]
    fn names_are_those_of_torchvision() {
        let dag = build(&Config::named("resnet18").unwrap(), 1).unwrap();
        let find = |name: &str| dag.values().iter().find(|v| v.name == name).unwrap();
        assert_eq!(find("layer2.0.downsample.0.weight").fact.shape, [128, 64, 1, 1]);
        assert_eq!(find("layer4.1.bn2.running_var").fact.shape, [512]);
        assert_eq!(find("fc.weight").fact.shape, [1000, 512]);
    }
}
