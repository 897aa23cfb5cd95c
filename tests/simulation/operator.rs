//! What an operator does meanwhile: orders about users, on their way to the cores, and what must be
//! true of users whatever crosses them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidewheel::bus::Order;
use tidewheel::gate::{Limits, Policy};
use tidewheel::protocol::UserId;
use tidewheel::shard::Phase;
use tidewheel::time::{Instant, Now};

use crate::Check;
use crate::world::{Turn, World};

/// Orders under way, and the bans that they come to.
#[derive(Default)]
pub struct Orders {
    /// What each core has not heard yet.
    under_way: Vec<VecDeque<Order>>,
    /// Until when a user is banned at least, as far as cores have heard.
    bans: BTreeMap<String, Instant>,
}

impl Orders {
    pub fn new(cores: usize) -> Orders {
        Orders {
            under_way: vec![VecDeque::new(); cores],
            bans: BTreeMap::new(),
        }
    }

    pub fn are_heard(&self) -> bool {
        self.under_way.iter().all(VecDeque::is_empty)
    }
}

impl World {
    /// An order is given.
    pub fn order(&mut self) {
        let names = self.clients.iter().filter_map(|c| c.name.clone());
        let names: Vec<String> = names.collect();
        let Some(name) = self.rng.choice(names) else {
            return;
        };
        let user = UserId::from_name(&name);
        let order = match self.rng.u8(..4) {
            0 | 1 => Order::Ban {
                user,
                lasts: Some(Duration::from_millis(self.rng.u64(500..20_000))),
            },
            2 => Order::Unban { user },
            _ => Order::Disconnect {
                user,
                code: 4012,
                reason: "by the simulation".into(),
            },
        };
        self.trace.note(|| format!("an order: {order:?}"));
        for core in &mut self.orders.under_way {
            core.push_back(order.clone());
        }
    }

    /// A core hears of orders, each core in its own time.
    pub fn take_orders(&mut self, core: usize, turn: Turn, now: Now) -> Check {
        loop {
            let waits = !self.orders.under_way[core].is_empty();
            if !waits || (turn == Turn::Some && self.rng.bool()) {
                return Ok(());
            }
            let Some(order) = self.orders.under_way[core].pop_front() else {
                return Ok(());
            };
            self.trace.note(|| format!("  core {core} hears {order:?}"));
            match &order {
                Order::Ban { user, lasts } => {
                    let until = now.mono + lasts.unwrap_or(Duration::MAX);
                    let known = self.orders.bans.entry(user.to_string()).or_insert(until);
                    *known = until.min(*known);
                }
                Order::Unban { user } => drop(self.orders.bans.remove(&user.to_string())),
                Order::Disconnect { .. } => {}
            }
            let obeyed = self.cores[core].shard.handle_order(now, order);
            obeyed.map_err(|fault| fault.to_string())?;
            self.audit(core, "an order")?;
        }
    }

    /// The rates that were set are set no more: what follows has to be answered.
    pub fn lift_rates(&mut self) {
        let Limits {
            connections_per_user_max,
            one_connection_per_user,
            ..
        } = self.plan.shard.policy.limits;
        let policy = Arc::new(Policy {
            limits: Limits {
                connections_per_user_max,
                one_connection_per_user,
                ..Limits::default()
            },
            ..(*self.plan.shard.policy).clone()
        });
        let now = self.now();
        for core in &mut self.cores {
            core.shard.handle_policy(now, Arc::clone(&policy));
        }
    }

    /// Everyone is free to come, whatever was ordered.
    pub fn lift_bans(&mut self) {
        let now = self.now();
        for client in &self.clients {
            let name = client.name.as_deref().unwrap_or("nobody");
            for core in &mut self.cores {
                core.shard.handle_unban(now, &UserId::from_name(name));
            }
        }
        self.orders.bans.clear();
    }

    /// When everything has come to rest: how many connections a user has, and that nobody is here who
    /// is banned.
    pub fn users_are_within_limits(&self) -> Check {
        let limits = &self.plan.shard.policy.limits;
        let mut users: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (id, peer) in self.peers.iter().enumerate() {
            let name = self.clients[peer.client].name.as_deref();
            let (Some(name), Some(index)) = (name, peer.index) else {
                continue;
            };
            let backlog = self.cores[peer.core].shard.backlog(index);
            if backlog.is_some_and(|b| b.phase == Phase::Native) {
                users.entry(name).or_default().push(id);
            }
        }
        let most = match limits.one_connection_per_user {
            true => 1,
            false => limits.connections_per_user_max.unwrap_or(u32::MAX),
        };
        for (name, peers) in users {
            if peers.len() > most as usize {
                return Err(format!("{name} has the connections {peers:?}, not {most}"));
            }
            let banned = self.orders.bans.get(name).is_some_and(|b| *b > self.mono);
            if banned {
                return Err(format!(
                    "{name} is banned, and has the connections {peers:?}"
                ));
            }
        }
        Ok(())
    }
}
