//! Everything at once: the acts of all scenarios that this filesystem can do, on shared files where
//! they bear it, in an order that follows from the seed.

use super::error::Error;
use super::setup::{Act, Cast, Setup};
use super::{Lacks, Needs, SCENARIOS, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "mix",
    summary: "a random schedule over all the others that can run here",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    setup.share();
    let mut cast: Vec<Act> = Vec::new();
    for scenario in SCENARIOS.iter().filter(|other| other.name != SCENARIO.name) {
        if !setup.meets(scenario.needs) {
            setup.leave_out(scenario.name);
            continue;
        }
        match (scenario.cast)(setup) {
            Ok(acts) => cast.extend(acts),
            Err(Error::Unsupported { .. }) => setup.leave_out(scenario.name),
            Err(error) => return Err(error),
        }
    }
    Ok(cast)
}
