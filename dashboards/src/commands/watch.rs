//! `faultline watch`

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tiny_http::{Header, Method, Request, Response, Server};
use tracer::{
    live::Live,
    story::{Story, Timeline},
    trace::Trace,
};

use super::top::attach;
use crate::{cli::Watch, metrics};

/// Rings are looked at, and scrapes answered, at least this often.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves metrics until the time is up, or a signal asks for it.
pub fn run(arguments: &Watch) -> Result<ExitCode> {
    let server = Server::http(arguments.listen).map_err(|error| {
        anyhow!(
            "cannot listen on {}: {error}; choose another with --listen",
            arguments.listen
        )
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot catch signals")?;
    }
    let mut source = Source::open(arguments)?;
    let address = server.server_addr();
    note!("metrics at http://{address}/metrics");
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed)
        && arguments.time.is_none_or(|limit| started.elapsed() < limit)
    {
        let request = source.advance(&server)?;
        if let Some(request) = request {
            answer(request, source.story());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the story comes from.
enum Source {
    Rings {
        live: Box<Live>,
        story: Box<Story>,
        /// There is more to take at once.
        more: bool,
    },
    Told(Box<Story>),
}

impl Source {
    fn open(arguments: &Watch) -> Result<Self> {
        if let Some(path) = &arguments.trace {
            let trace = Trace::open(path)?;
            let told = Story::of(&trace, Timeline::around(Vec::new()), |_, _| {});
            return Ok(Self::Told(Box::new(told.story)));
        }
        let live = attach(&arguments.mounts, arguments.ring, arguments.light)?;
        let story = Story::with_timeline(live.header(), Timeline::around(Vec::new()));
        Ok(Self::Rings {
            live: Box::new(live),
            story: Box::new(story),
            more: false,
        })
    }

    fn story(&mut self) -> &mut Story {
        match self {
            Self::Rings { story, .. } | Self::Told(story) => story,
        }
    }

    /// Brings the story on, and gives a request if there is one.
    fn advance(&mut self, server: &Server) -> Result<Option<Request>> {
        match self {
            Self::Told(_) => server.recv_timeout(PAUSE),
            Self::Rings { live, story, more } => {
                if !*more {
                    live.wait(PAUSE).context("cannot wait for events")?;
                }
                *more = live.drain(PAUSE, |item| story.hear(item));
                server.try_recv()
            }
        }
        .context("cannot take a request")
    }
}

fn answer(request: Request, story: &mut Story) {
    story.predict();
    let get = matches!(request.method(), Method::Get | Method::Head);
    let result = match (get, request.url()) {
        (true, "/metrics") => match metrics::render(story, &story.report(None)) {
            Ok(text) => {
                let mut response = Response::from_string(text);
                if let Ok(kind) = Header::from_bytes("Content-Type", metrics::CONTENT_TYPE) {
                    response = response.with_header(kind);
                }
                request.respond(response)
            }
            Err(_) => request.respond(Response::empty(500)),
        },
        (true, "/") => {
            let page = "faultline: metrics are at /metrics\n";
            request.respond(Response::from_string(page))
        }
        (true, _) => request.respond(Response::empty(404)),
        (false, _) => request.respond(Response::empty(405)),
    };
    if let Err(error) = result {
        note!("a scrape went unanswered: {error}");
    }
}
