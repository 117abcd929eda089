//! What becomes of a plan when the kernel refuses a step.

use super::*;
use crate::dataplane::fake;

/// Takes so many denied prefixes, and removes them if it is told to.
struct Stubborn {
    denied: BTreeSet<IpNet>,
    room: usize,
    removes: bool,
}

impl KernelMaps for Stubborn {
    fn deny(&mut self, prefix: IpNet) -> io::Result<()> {
        if self.denied.len() == self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.denied.insert(prefix);
        Ok(())
    }

    fn undeny(&mut self, prefix: IpNet) -> io::Result<()> {
        if !self.removes {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.denied.remove(&prefix);
        Ok(())
    }

    fn denied(&self) -> io::Result<BTreeSet<IpNet>> {
        Ok(self.denied.clone())
    }

    fn write_routes(&mut self, _set: RouteSet, _routes: &Arc<Routes>) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn remove_routes(&mut self, _set: RouteSet) -> io::Result<()> {
        Ok(())
    }

    fn routes(&self) -> BTreeMap<RouteSet, Arc<Routes>> {
        BTreeMap::new()
    }

    fn write_quic(&mut self, _number: QuicSetId, _set: &Arc<QuicSet>) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn remove_quic(&mut self, _number: QuicSetId) -> io::Result<()> {
        Ok(())
    }

    fn quic(&self) -> BTreeMap<QuicSetId, Arc<QuicSet>> {
        BTreeMap::new()
    }

    fn stats(&self, _id: BackendId) -> io::Result<BackendStats> {
        Ok(BackendStats::ZERO)
    }

    fn counters(&self) -> io::Result<Vec<u64>> {
        Ok(Vec::new())
    }

    fn reset_stats(&mut self, _id: BackendId) -> io::Result<()> {
        Ok(())
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Tables where `192.0.2.0/24` is denied, and `room` prefixes find room.
fn tables(room: usize, removes: bool) -> Tables {
    let denied = BTreeSet::from([net("192.0.2.0/24")]);
    let kernel = Box::new(Stubborn { denied, room, removes });
    Tables { kernel, ..fake::tables(2).unwrap() }
}

#[test]
fn a_refused_plan_leaves_no_denied_prefix_behind() {
    let mut tables = tables(2, true);
    let plan = [
        Operation::Deny(net("198.51.100.0/24")),
        Operation::Deny(net("203.0.113.0/24")),
        Operation::Publish(1),
    ];
    assert!(tables.carry_out(&plan).is_err());
    assert_eq!(tables.kernel.denied().unwrap(), BTreeSet::from([net("192.0.2.0/24")]));
    assert_eq!(tables.config.read(0).active, 0);
}

#[test]
fn sets_that_find_no_room_leave_the_generation_in_force() {
    for write in
        [Operation::WriteRoutes(1, Arc::default()), Operation::WriteQuic(1, Arc::default())]
    {
        let mut tables = tables(2, true);
        assert!(tables.carry_out(&[write, Operation::Publish(1)]).is_err());
        assert_eq!(tables.config.read(0).active, 0);
    }
}

#[test]
fn what_fails_after_publishing_refuses_nothing_and_stops_nothing() {
    let mut tables = tables(2, false);
    let serving = Backend { flags: flags::SERVING, ..Backend::ZERO };
    tables.backends.write(1, &serving);
    let plan =
        [Operation::Publish(1), Operation::Undeny(net("192.0.2.0/24")), Operation::Retire(1)];
    tables.carry_out(&plan).unwrap();
    assert_eq!(tables.config.read(0).active, 1);
    assert_eq!(tables.backends.read(1).flags, 0);
}
