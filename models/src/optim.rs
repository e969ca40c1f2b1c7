//! Update rules: `AdamW` and SGD with momentum, on device tensors or, where they lie in host memory, in one loop.
//!
//! The state of a parameter is a list of tensors of its shape, as many as
//! [`optimizer_slots`](wattle_protocol::dag::bundle::optimizer_slots) says. One update reads nothing else but the
//! step, so the same state and gradient give the same bits wherever it runs on a CPU.

use burn_backend::tensor::Device;
use rayon::prelude::*;
use wattle_protocol::job::{Optimizer, TrainSpec};

use crate::exec::host::vectorised;
use crate::exec::tensor::{Float, HostBackend};

/// Elements that one thread updates at a time.
const PIECE: usize = 1 << 15;

/// Coefficients of one update of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The rule.
    pub optimizer: Optimizer,
    /// Learning rate of the step.
    pub rate: f32,
    /// Factor on the gradient.
    pub scale: f32,
    /// Whether weight decay applies.
    pub decay: bool,
    /// Which update this is, from 1.
    pub count: u64,
}

impl Update {
    /// Returns the update of one step of a job, for parameters that decay or not.
    #[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
    pub fn of(train: &TrainSpec, step: u64, scale: f64, decay: bool) -> Self {
        Self {
            optimizer: train.optimizer,
            rate: train.learning_rate.at(step, train.steps),
            scale: scale as f32,
            decay,
            count: step + 1,
        }
    }

    /// Returns the parameter and its state after the update.
    pub fn apply<B: HostBackend>(
        &self,
        parameter: Float<B>,
        state: Vec<Float<B>>,
        gradient: Float<B>,
        device: &Device<B>,
    ) -> (Float<B>, Vec<Float<B>>) {
        let shape = parameter.shape();
        if let Some(g) = gradient.host()
            && parameter.host().is_some()
        {
            let own = |tensor: Float<B>| tensor.into_host().ok();
            let state: Option<Vec<_>> = state.into_iter().map(own).collect();
            let (mut p, mut slots) =
                own(parameter).zip(state).expect("they lie where the gradient lies");
            self.apply_host(&mut p, &mut slots, &g);
            let tensor = |values| Float::new(values, &shape, device);
            return (tensor(p), slots.into_iter().map(tensor).collect());
        }
        self.apply_device(parameter, state, gradient)
    }

    /// Bias-corrected step size and the factor on the root of the second moment.
    #[expect(clippy::cast_possible_truncation, reason = "coefficients of f32 arithmetic")]
    fn adam_factors(&self, beta1: f32, beta2: f32) -> (f32, f32) {
        let power = |beta: f32| 1.0 - libm::pow(f64::from(beta), count_as_f64(self.count));
        let step = f64::from(self.rate) / power(beta1);
        (step as f32, (1.0 / libm::sqrt(power(beta2))) as f32)
    }

    fn apply_host(&self, p: &mut [f32], state: &mut [Vec<f32>], g: &[f32]) {
        match (self.optimizer, state) {
            (Optimizer::AdamW { beta1, beta2, eps, weight_decay }, [m, v]) => {
                let (step, root) = self.adam_factors(beta1, beta2);
                let shrink = if self.decay { 1.0 - self.rate * weight_decay } else { 1.0 };
                let moments = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE));
                let parts = p.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE)).zip(moments);
                parts.for_each(|((p, g), (m, v))| {
                    vectorised(
                        #[inline(always)]
                        || {
                            let moments = m.iter_mut().zip(v.iter_mut());
                            for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(moments) {
                                let g = g * self.scale;
                                *m = beta1 * *m + (1.0 - beta1) * g;
                                *v = beta2 * *v + (1.0 - beta2) * g * g;
                                *p = *p * shrink - step * *m / (v.sqrt() * root + eps);
                            }
                        },
                    );
                });
            }
            (Optimizer::Sgd { momentum, weight_decay }, state) => {
                let decay = if self.decay { weight_decay } else { 0.0 };
                match state {
                    [v] => {
                        for ((p, g), v) in p.iter_mut().zip(g).zip(v) {
                            *v = momentum * *v + (g * self.scale + decay * *p);
                            *p -= self.rate * *v;
                        }
                    }
                    _ => {
                        for (p, g) in p.iter_mut().zip(g) {
                            *p -= self.rate * (g * self.scale + decay * *p);
                        }
                    }
                }
            }
            (Optimizer::AdamW { .. }, _) => panic!("AdamW keeps two moments a parameter"),
        }
    }

    fn apply_device<B: HostBackend>(
        &self,
        p: Float<B>,
        state: Vec<Float<B>>,
        g: Float<B>,
    ) -> (Float<B>, Vec<Float<B>>) {
        let g = g.scale(self.scale);
        let mut state = state.into_iter();
        match (self.optimizer, state.next(), state.next()) {
            (Optimizer::AdamW { beta1, beta2, eps, weight_decay }, Some(m), Some(v)) => {
                let (step, root) = self.adam_factors(beta1, beta2);
                let shrink = if self.decay { 1.0 - self.rate * weight_decay } else { 1.0 };
                let m = m.scale(beta1).add(g.clone().scale(1.0 - beta1));
                let v = v.scale(beta2).add(g.clone().mul(g).scale(1.0 - beta2));
                let bottom = v.clone().sqrt().scale(root).shift(eps);
                let p = p.scale(shrink).sub(m.clone().scale(step).div(bottom));
                (p, vec![m, v])
            }
            (Optimizer::Sgd { momentum, weight_decay }, slot, _) => {
                let decay = if self.decay { weight_decay } else { 0.0 };
                let g = g.add(p.clone().scale(decay));
                let Some(v) = slot else {
                    return (p.sub(g.scale(self.rate)), Vec::new());
                };
                let v = v.scale(momentum).add(g);
                (p.sub(v.clone().scale(self.rate)), vec![v])
            }
            (Optimizer::AdamW { .. }, _, _) => panic!("AdamW keeps two moments a parameter"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^53")]
fn count_as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    /// f32 arithmetic against a hand calculation in f64.
    const TOLERANCE: f32 = 2e-7;

    fn check(update: Update, state: &[f32], want_p: f32, want_state: &[f32]) {
        let device = Device::<Flex>::default();
        let make = |v: f32| Float::<Flex>::new(vec![v; 3], &[3], &device);
        let slots: Vec<_> = state.iter().map(|s| make(*s)).collect();
        let host = update.apply(make(2.0), slots.clone(), make(0.5), &device);
        let dev = update.apply_device(make(2.0), slots, make(0.5));
        for (p, slots) in [host, dev] {
            let got = p.values().unwrap()[1];
            assert!((got - want_p).abs() < TOLERANCE, "{got} not {want_p}");
            for (slot, want) in slots.into_iter().zip(want_state) {
                assert!((slot.values().unwrap()[2] - want).abs() < TOLERANCE);
            }
        }
    }

    #[test]
    fn adamw_follows_a_hand_calculation() {
        let optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
        let update = Update { optimizer, rate: 0.01, scale: 0.5, decay: true, count: 2 };
        // g = 0.25; m = 0.9 * 0.1 + 0.1 * 0.25 = 0.115; v = 0.99 * 0.04 + 0.01 * 0.0625 = 0.040225
        // m / (1 - 0.81) = 0.605263; sqrt(v / (1 - 0.9801)) = sqrt(2.021357) = 1.421744
        // p = 2 * (1 - 0.001) - 0.01 * 0.605263 / 1.421744 = 1.998 - 0.004257188
        check(update, &[0.1, 0.04], 1.993_742_8, &[0.115, 0.040_225]);
    }

    #[test]
    fn sgd_follows_a_hand_calculation() {
        let optimizer = Optimizer::Sgd { momentum: 0.9, weight_decay: 0.1 };
        let update = Update { optimizer, rate: 0.1, scale: 1.0, decay: true, count: 5 };
        // v = 0.9 * 1 + 0.5 + 0.1 * 2 = 1.6; p = 2 - 0.16
        check(update, &[1.0], 1.84, &[1.6]);
        let plain = Optimizer::Sgd { momentum: 0.0, weight_decay: 0.1 };
        check(Update { optimizer: plain, decay: false, ..update }, &[], 1.95, &[]);
    }
}
