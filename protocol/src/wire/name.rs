//! Short names of messages, for logs and traces.

use super::message::{JobMessage, Message};

impl Message {
    /// Returns the message's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Goodbye => "goodbye",
            Self::Adverts(_) => "adverts",
            Self::Digest { .. } => "digest",
            Self::WhatRuns => "what runs",
            Self::Runs(_) => "runs",
            Self::AskTraces { .. } => "ask traces",
            Self::Traces(_) => "traces",
            Self::Submit { .. } => "submit",
            Self::Job { body, .. } => body.name(),
        }
    }
}

impl JobMessage {
    /// Returns the message's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestVote { .. } => "request vote",
            Self::Vote { .. } => "vote",
            Self::Lease { .. } => "lease",
            Self::LeaseGranted { .. } => "lease granted",
            Self::Inquire { .. } => "inquire",
            Self::Report { .. } => "report",
            Self::Propose { .. } => "propose",
            Self::Accept { .. } => "accept",
            Self::Refuse { .. } => "refuse",
            Self::Adopt { .. } => "adopt",
            Self::StepReady { .. } => "step ready",
            Self::StepCommit { .. } => "step commit",
            Self::GradientHeld { .. } => "gradient held",
            Self::Pull { .. } => "pull",
            Self::StageFailed { .. } => "stage failed",
            Self::Release => "release",
            Self::News(_) => "news",
            Self::Dispute { .. } => "dispute",
        }
    }
}
