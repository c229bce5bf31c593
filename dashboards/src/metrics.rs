//! The model as OpenMetrics, for Prometheus.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};
use tracer::{
    judge::{Report, facts::Outcome},
    story::{Spans, Story},
};

/// What a scrape is answered with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the buckets of durations, nanoseconds: powers of four from a microsecond.
const EDGES: [u64; 12] = [
    1_000,
    4_000,
    16_000,
    64_000,
    256_000,
    1_024_000,
    4_096_000,
    16_384_000,
    65_536_000,
    262_144_000,
    1_048_576_000,
    4_194_304_000,
];

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Samples {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, u64)>),
    Histogram(Vec<(Labels, Distribution)>),
}

/// Durations as Prometheus wants them.
#[derive(Debug)]
struct Distribution {
    /// Seconds.
    sum: f64,
    count: u64,
    /// Upper bounds in seconds, and how many lie in each.
    buckets: Vec<(f64, u64)>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

/// One scrape.
#[derive(Debug)]
struct Snapshot(Vec<Family>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let (kind, unit) = match family.samples {
                Samples::Counter(_) => (MetricType::Counter, None),
                Samples::Gauge(_) => (MetricType::Gauge, None),
                Samples::Histogram(_) => (MetricType::Histogram, Some(Unit::Seconds)),
            };
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            match &family.samples {
                Samples::Counter(samples) => {
                    for (labels, value) in samples {
                        let none: Option<&Exemplar<Labels, f64>> = None;
                        metric.encode_family(labels)?.encode_counter(value, none)?;
                    }
                }
                Samples::Gauge(samples) => {
                    for (labels, value) in samples {
                        let value = i64::try_from(*value).unwrap_or(i64::MAX);
                        metric.encode_family(labels)?.encode_gauge(&value)?;
                    }
                }
                Samples::Histogram(samples) => {
                    for (labels, of) in samples {
                        metric.encode_family(labels)?.encode_histogram::<Labels>(
                            of.sum,
                            of.count,
                            &of.buckets,
                            None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn histogram(labels: Labels, spans: &Spans) -> (Labels, Distribution) {
    let counts = spans.binned(&EDGES);
    let edges = EDGES.iter().map(|&edge| edge as f64 / 1e9);
    let distribution = Distribution {
        sum: spans.total() as f64 / 1e9,
        count: spans.count(),
        buckets: edges.chain([f64::MAX]).zip(counts).collect(),
    };
    (labels, distribution)
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.map(|(name, value)| (name, value.to_owned())).into()
}

/// Renders the state of a run.
///
/// # Errors
/// Never in fact: it writes to a string.
pub fn render(story: &Story, report: &Report) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(families(story, report))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

fn families(story: &Story, report: &Report) -> Vec<Family> {
    let statistics = story.statistics();
    let one = |value| vec![(Labels::new(), value)];
    let counter = |name, help, samples| Family {
        name,
        help,
        samples: Samples::Counter(samples),
    };
    let gauge = |name, help, samples| Family {
        name,
        help,
        samples: Samples::Gauge(samples),
    };
    let durations = |name, help, samples| Family {
        name,
        help,
        samples: Samples::Histogram(samples),
    };
    let outcomes = Outcome::ALL
        .into_iter()
        .zip(story.timeline().outcomes())
        .map(|(outcome, count)| (labels([("outcome", outcome.name())]), count))
        .collect();
    let lock = |kind: &str, class: &str| labels([("filesystem", kind), ("class", class)]);
    let mut acquired = Vec::new();
    let (mut waits, mut waited, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for ((kind, class), uses) in &statistics.classes {
        for (mode, count) in [("SHARED", uses.shared), ("EXCL", uses.exclusive)] {
            let mut labels = lock(kind.name(), class.name());
            labels.push(("mode", mode.to_owned()));
            acquired.push((labels, count));
        }
        let labels = lock(kind.name(), class.name());
        waits.push((labels.clone(), uses.waits));
        waited.push(histogram(labels.clone(), &uses.waited));
        held.push(histogram(labels, &uses.held));
    }
    let (mut met, mut held_off) = (Vec::new(), Vec::new());
    for row in &report.coverage {
        let labels = labels([
            ("filesystem", row.filesystem.name()),
            ("operation", row.operation.name()),
            ("fault", row.fault.name()),
        ]);
        met.push((labels.clone(), row.met));
        held_off.push((labels, row.held_off));
    }
    let attached = report
        .hooks
        .iter()
        .filter(|hook| hook.mechanism.is_some())
        .count() as u64;
    let absent = report.hooks.len() as u64 - attached;
    let broken = report
        .findings
        .iter()
        .map(|finding| {
            let labels = labels([
                ("kind", finding.kind.name()),
                ("filesystem", finding.filesystem.name()),
                ("operation", finding.operation.name()),
                ("class", finding.expected.class),
                ("target", &finding.target),
            ]);
            (labels, finding.count)
        })
        .collect();
    let mut strengths: Vec<(Labels, u64)> = ["predicted", "observed", "proven"]
        .into_iter()
        .map(|strength| (labels([("strength", strength)]), 0))
        .collect();
    for finding in &report.findings {
        if let Some((_, count)) = strengths.get_mut(finding.strength as usize) {
            *count += 1;
        }
    }
    let operations = |map: &std::collections::BTreeMap<_, Spans>| {
        map.iter()
            .map(
                |((kind, operation), spans): (
                    &(
                        tracer::hooks::FilesystemKind,
                        tracer::judge::operations::Operation,
                    ),
                    _,
                )| {
                    let labels =
                        labels([("filesystem", kind.name()), ("operation", operation.name())]);
                    histogram(labels, spans)
                },
            )
            .collect()
    };
    vec![
        counter("faultline_events", "Events judged", one(report.events)),
        counter("faultline_events_lost", "Events lost", one(report.lost)),
        counter(
            "faultline_acts_unjudged",
            "Acts that could not be judged",
            one(report.unjudged),
        ),
        gauge(
            "faultline_hooks",
            "Hooks of the plan",
            vec![
                (labels([("state", "attached")]), attached),
                (labels([("state", "absent")]), absent),
            ],
        ),
        gauge(
            "faultline_faults_left_out",
            "Faults left out for each that was recorded",
            one(story.left_out().into()),
        ),
        gauge(
            "faultline_findings",
            "Findings by strength, those known of this kernel left out",
            strengths,
        ),
        counter(
            "faultline_broken_rules",
            "Occurrences of each finding",
            broken,
        ),
        counter(
            "faultline_fault_outcomes",
            "Faults that returned, by what became of them as to windows on their file",
            outcomes,
        ),
        counter(
            "faultline_meetings",
            "Faults in flight while a window was open on their file",
            met,
        ),
        counter(
            "faultline_held_off",
            "Faults that waited for the exclusion lock while a window was open",
            held_off,
        ),
        counter(
            "faultline_lock_acquisitions",
            "Lock acquisitions within operations and faults",
            acquired,
        ),
        counter(
            "faultline_lock_waits",
            "Lock acquisitions that had to wait",
            waits,
        ),
        durations(
            "faultline_lock_wait",
            "Waits that ended with the lock",
            waited,
        ),
        durations("faultline_lock_hold", "Holds that ended", held),
        durations(
            "faultline_operation_duration",
            "Operations that returned",
            operations(&statistics.operations),
        ),
        durations(
            "faultline_window_duration",
            "Windows that ended",
            operations(&statistics.windows),
        ),
        durations(
            "faultline_fault_duration",
            "Faults that returned",
            statistics
                .faults
                .iter()
                .map(|((kind, fault), spans)| {
                    let labels = labels([("filesystem", kind.name()), ("fault", fault.name())]);
                    histogram(labels, spans)
                })
                .collect(),
        ),
    ]
}
