//! The command line: what each command is called, what it takes, and how it ends.

mod export;
mod import;
mod inspect;
mod link;
mod look;
mod plan;
mod probe;
mod sim;
mod table;
mod why;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::{DemoOptions, Interrupted, Victim};
use crate::jobfile::{Job, LENGTH_MAX, Problems};
use crate::output::Output;
use crate::swarm_options::{ComputeOptions, JoinOptions, NETWORK};
use crate::testbed::TestbedError;
use crate::train::TrainOptions;
use crate::up::UpOptions;

/// Weaves many ordinary GPUs into one machine that trains and runs neural networks.
#[derive(Debug, Parser)]
#[command(name = "wattle", version, about, max_term_width = 100)]
struct Cli {
    /// Print data as JSON Lines, each with a "schema".
    #[arg(long, global = true)]
    json: bool,
    /// Say more on standard error; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A whole swarm on this machine: peers find each other, train, lose one of them, and go on.
    Demo(DemoArgs),
    /// Run this machine's peer until Ctrl-C.
    Up(UpArgs),
    /// Train a job file on a swarm and follow it to its end.
    Train(TrainArgs),
    /// Show who takes part in a swarm, as measured.
    Peers(look::LookArgs),
    /// Show which jobs a swarm works on.
    Status(look::StatusArgs),
    /// Explain where the time of a running job's steps goes.
    Why(why::WhyArgs),
    /// Measure the link to a peer: its rate, and how long control messages take while it is full.
    Link(link::LinkArgs),
    /// Measure this machine.
    Probe(probe::ProbeArgs),
    /// Show what a network consists of and costs.
    Inspect(inspect::InspectArgs),
    /// Turn an ONNX model into a network of Wattle, or say what stands in the way.
    Import(import::ImportArgs),
    /// Write weights of a network as a folder that other tools read.
    Export(export::ExportArgs),
    /// Show where a job would be placed and how fast it would run.
    Plan(plan::PlanArgs),
    /// Run a swarm in the simulator.
    Sim(sim::SimArgs),
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The job file.
    job: PathBuf,
    #[command(flatten)]
    join: JoinArgs,
    /// Where the learnt parameters go: a file whose name ends in .safetensors, or a folder that other tools read.
    #[arg(long, value_name = "PATH")]
    save: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
struct JoinArgs {
    /// Ticket of a peer to join through; may be given several times.
    #[arg(long = "join", value_name = "TICKET")]
    tickets: Vec<String>,
    /// Address to listen at; port 0 takes any free one.
    #[arg(long, default_value = "0.0.0.0:0", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Do not look for peers on the local network.
    #[arg(long)]
    no_mdns: bool,
    /// Speak TCP only, for networks that block UDP.
    #[arg(long)]
    tcp_only: bool,
    /// Name of the network; peers of other names do not see each other.
    #[arg(long, default_value = NETWORK)]
    network: String,
    /// Directory of this peer's identity; without it each run is a fresh peer.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// File of emulated link limits (JSON), for demonstrations on one machine.
    #[arg(long, value_name = "FILE")]
    links: Option<PathBuf>,
}

impl JoinArgs {
    fn options(self) -> JoinOptions {
        JoinOptions {
            network: self.network,
            state: self.state,
            tickets: self.tickets,
            listen: self.listen,
            mdns: !self.no_mdns,
            tcp_only: self.tcp_only,
            relay: false,
            external: None,
            links: self.links,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeviceArg {
    /// A GPU where there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The best adapter that wgpu finds, even one in software.
    Wgpu,
}

impl DeviceArg {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
        }
    }
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    join: JoinArgs,
    /// What computes.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceArg,
    /// Share of this machine's speed to have, in (0, 1]; less than 1 is emulated by pausing.
    #[arg(long, default_value_t = 1.0, value_parser = share)]
    share: f64,
    /// Memory that jobs may use, in MiB; by default half of what is free.
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Volunteer as a relay: help peers behind NATs to find each other, and carry what cannot go straight, within limits.
    #[arg(long)]
    relay: bool,
    /// Where others reach this machine from everywhere, if a router forwards a port to it.
    #[arg(long, value_name = "IP:PORT")]
    external: Option<SocketAddr>,
    /// End when standard input closes.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("a share lies above 0 and up to 1, such as 0.5".into()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KillArg {
    /// Nobody.
    Nobody,
    /// The owner of the first stage.
    First,
    /// The owner of a stage in the middle.
    Middle,
    /// The owner of the last stage.
    Last,
    /// Whoever leads the job.
    Leader,
    /// A replica, of the first stage that has one.
    Replica,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Number of peer processes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    peers: u16,
    /// The network to train.
    #[arg(long, default_value = "gpt2-nano", value_parser = ["gpt2-nano", "gpt2-mini", "lstm-nano", "resnet-tiny"])]
    model: String,
    /// Optimizer steps; by default what suits the model.
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=100_000))]
    steps: Option<u64>,
    /// Stages of the pipeline; by default one peer is left to stand by.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16))]
    stages: Option<u16>,
    /// Most peers that run one stage at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    replicas: u16,
    /// What computes.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceArg,
    /// Who is killed in the middle.
    #[arg(long, value_enum, default_value = "middle")]
    kill: KillArg,
    /// After which step the kill comes; by default in the middle of the run.
    #[arg(long, value_name = "STEP")]
    kill_after: Option<u64>,
    /// Milliseconds from that step's commit to the kill.
    #[arg(long, default_value_t = 40, value_name = "MS")]
    kill_pause: u64,
    /// Do not emulate uneven shares and links.
    #[arg(long)]
    no_limits: bool,
    /// Do not run the same job in one process to compare.
    #[arg(long)]
    no_reference: bool,
    /// Where the HTML report goes.
    #[arg(long, value_name = "FILE", default_value = "wattle-demo.html")]
    report: PathBuf,
}

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.verbose);
    let output = Arc::new(Output::new(cli.json));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.progress(&format!("Error: the runtime does not start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli.command, output.clone()));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => ExitCode::from(130),
        Err(error) if is_of_a_file(&error) => {
            output.progress(&format!("Error: {error:#}"));
            // EX_DATAERR of sysexits.h: the input was wrong, not the program.
            ExitCode::from(65)
        }
        Err(error) => {
            output.progress(&format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Says whether what was given is to blame: a job file, a scenario, a testbed, a model.
fn is_of_a_file(error: &anyhow::Error) -> bool {
    error.is::<Problems>()
        || error.is::<import::Unusable>()
        || sim::is_of_a_scenario(error)
        || error.is::<TestbedError>()
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info,wattle_protocol=debug,wattle_node=debug",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("WATTLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

async fn run(command: Command, output: Arc<Output>) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => crate::demo::demo(demo_options(args)?, output).await,
        Command::Up(args) => {
            let options = UpOptions {
                compute: ComputeOptions {
                    device: crate::device::choice(args.device.name())?,
                    share: args.share,
                    memory: args.memory.map(|m| m.saturating_mul(1 << 20)),
                },
                until_stdin_closes: args.until_stdin_closes,
                join: JoinOptions {
                    relay: args.relay,
                    external: args.external,
                    ..args.join.options()
                },
            };
            crate::up::up(options, output).await
        }
        Command::Train(args) => {
            let job = read_job(&args.job)?;
            let options = TrainOptions { join: args.join.options(), job, save: args.save };
            crate::train::train(options, output).await
        }
        Command::Peers(args) => look::peers(args, &output).await,
        Command::Status(args) => look::status(args, &output).await,
        Command::Why(args) => why::run(args, &output).await,
        Command::Link(args) => link::run(args, &output).await,
        Command::Probe(args) => {
            tokio::task::spawn_blocking(move || probe::run(&args, &output)).await?
        }
        Command::Inspect(args) => inspect::run(&args, &output),
        Command::Import(args) => {
            tokio::task::spawn_blocking(move || import::run(&args, &output)).await?
        }
        Command::Export(args) => {
            tokio::task::spawn_blocking(move || export::run(&args, &output)).await?
        }
        Command::Plan(args) => plan::run(args, &output).await,
        Command::Sim(args) => tokio::task::spawn_blocking(move || sim::run(args, &output)).await?,
    }
}

/// Reads a job file; nothing is started from one with a mistake.
fn read_job(path: &Path) -> anyhow::Result<Job> {
    let length = std::fs::metadata(path)
        .with_context(|| format!("while opening the job file {}", path.display()))?
        .len();
    anyhow::ensure!(
        length <= LENGTH_MAX as u64,
        "{} has {length} bytes; a job file has at most {LENGTH_MAX}",
        path.display()
    );
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("while reading the job file {}", path.display()))?;
    Ok(crate::jobfile::parse_in(&text, path.parent().unwrap_or_else(|| Path::new("")))?)
}

fn demo_options(args: DemoArgs) -> anyhow::Result<DemoOptions> {
    let stages = args.stages.unwrap_or(if args.peers > 2 { args.peers - 1 } else { args.peers });
    anyhow::ensure!(
        stages <= args.peers,
        "{stages} stages need as many peers, but --peers is {}",
        args.peers
    );
    let mut spec = crate::demo::job::spec(&args.model, args.steps, stages)?;
    spec.swarm.replicas = args.replicas;
    Ok(DemoOptions {
        peers: usize::from(args.peers),
        spec,
        model: args.model,
        device: args.device.name().into(),
        limits: !args.no_limits,
        victim: match args.kill {
            KillArg::Nobody => Victim::Nobody,
            KillArg::First => Victim::Stage(0),
            KillArg::Middle => Victim::Middle,
            KillArg::Last => Victim::Stage(u16::MAX),
            KillArg::Leader => Victim::Leader,
            KillArg::Replica => Victim::Replica,
        },
        kill_after: args.kill_after,
        kill_pause: std::time::Duration::from_millis(args.kill_pause),
        reference: !args.no_reference,
        report: Some(args.report),
    })
}
