//! What this node is and does.

use axum::extract::State;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::asking::ASK_BYTES;
use super::schema::{NodeDurability, NodeFacts, NodeMemory, NodeState};
use super::{Api, Json};
use crate::bus::{ApiAnswer, ApiAsk, Durability};
use crate::control::access::{Granted, Reading};
use crate::control::{Phase, Problem};
use crate::metrics::Metrics;

/// What this node is and does.
///
/// Cores that do not answer within a second are left out of the sums: `cores_up` says how many did.
#[utoipa::path(
    get, path = "/api/v1/node", operation_id = "node", tag = "node",
    responses((status = 200, description = "The node", body = NodeFacts))
)]
pub(super) async fn node(
    _caller: Granted<Reading>,
    State(api): State<Api>,
) -> Result<Json, Problem> {
    let (all, cores_up) = sum(&api).await;
    let phase = api.readiness.phase();
    let open = all
        .connections
        .open
        .iter()
        .map(crate::metrics::Counts::total);
    let facts = NodeFacts {
        version: env!("CARGO_PKG_VERSION"),
        epoch: format!("{:016x}", api.node.epoch()),
        started_at: api.node.started_at().to_string(),
        uptime_s: api.node.uptime().as_secs(),
        listen: api.about.listen.iter().map(ToString::to_string).collect(),
        admin_listen: api.admin_listen.to_string(),
        cores: u64::from(api.switchboard.core_count()),
        cores_up,
        connections: open.sum(),
        connections_max: all.connections.max,
        rooms: all.rooms.homed,
        state: match phase {
            Phase::Starting => NodeState::Starting,
            Phase::Ready => NodeState::Ready,
            Phase::Draining => NodeState::Draining,
        },
        draining: phase == Phase::Draining,
        durability: match api.about.durability {
            Durability::Off => NodeDurability::Off,
            Durability::Async => NodeDurability::Async,
            Durability::Fsync => NodeDurability::Fsync,
        },
        memory: NodeMemory {
            resident_bytes: all.memory.resident_bytes,
            budget_bytes: all.memory.budget_bytes,
            pressure: all.memory.pressure,
        },
    };
    Json::of(&facts)
}

/// The metrics of all cores that answer in time, and how many those are.
async fn sum(api: &Api) -> (Metrics, u64) {
    let mut asked = JoinSet::new();
    for core in api.all_cores() {
        let api = api.clone();
        let patience = api.limits.snapshot_timeout;
        asked.spawn(async move {
            let answer = api.switchboard.ask(core, ApiAsk::Metrics, ASK_BYTES);
            match timeout(patience, answer).await {
                Ok(Ok(ApiAnswer::Metrics(metrics))) => Some(metrics),
                _ => None,
            }
        });
    }
    let (mut all, mut answered) = (Metrics::default(), 0);
    while let Some(metrics) = asked.join_next().await {
        if let Ok(Some(metrics)) = metrics {
            all.merge(&metrics);
            answered += 1;
        }
    }
    (all, answered)
}
