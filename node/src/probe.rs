//! What this machine can do, measured: the part of its advert that its owner can check with `wattle probe`.
