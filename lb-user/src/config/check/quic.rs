//! Rules of `[[service.quic]]` and of the server IDs that belong to it.

use lb_common::quic::LONGEST;

use super::Report;
use crate::{
    config::{
        file::{Quic, Service},
        read::{Located, Wrong},
    },
    core::model::{
        Mode, Protocol,
        quic::{QuicConfig, ServerId},
    },
};

pub(super) fn check(service: &Service, report: &mut Report<'_>) {
    if let Some(first) = service.quic.first()
        && let Some(Located { value: Protocol::Tcp, .. }) = service.protocol
    {
        let wrong = Wrong::new("must be left out where the protocol is TCP");
        report.add(&first.place, wrong.hint("QUIC is carried by UDP: `protocol = \"udp\"`"));
    }
    if let Some(first) = service.quic.first()
        && let Some(Located { value: Mode::FullNat, .. }) = service.mode
    {
        let wrong = Wrong::new("must be left out where `mode` is \"fullnat\"");
        let hint = "a client's port has one source port at one backend, whatever connections \
                    share it; use another mode";
        report.add(&first.place, wrong.hint(hint));
    }
    report.duplicates(
        service.quic.iter().filter_map(|quic| quic.id.as_ref()),
        "must be unique in its service",
    );
    service.quic.iter().for_each(|quic| length(quic, report));
    server_ids(service, report);
}

/// A connection ID has its first octet, a server ID and a nonce, all in
/// [`LONGEST`] octets.
fn length(quic: &Quic, report: &mut Report<'_>) {
    let (Some(id), Some(nonce)) = (&quic.server_id_length, &quic.nonce_length) else { return };
    let most = LONGEST - 1 - id.value;
    if nonce.value > most {
        let rule = format!("must be {most} at most beside a server ID of {} octets", id.value);
        let hint = "a connection ID has 20 octets at most, and one in front of both (RFC 9000)";
        report.add(&nonce.place, Wrong::new(rule).hint(hint));
    }
}

/// Each names one backend, and is as long as a configuration says.
fn server_ids(service: &Service, report: &mut Report<'_>) {
    let ids = || {
        let lists = service.backends.iter().filter_map(|backend| backend.server_ids.as_ref());
        lists.flat_map(|ids| &ids.value)
    };
    report.duplicates::<ServerId>(ids(), "must be unique in its service");
    let lengths = service.quic.iter().map(|quic| Some(quic.server_id_length.as_ref()?.value));
    // One that is wrong might be the right one.
    let Some(lengths) = lengths.collect::<Option<Vec<_>>>() else { return };
    for Located { place, .. } in ids().filter(|id| !lengths.contains(&id.value.length())) {
        let wrong = if lengths.is_empty() {
            Wrong::new("must be left out in a service without `quic`")
                .hint("`[[service.quic]]` says what connection IDs look like")
        } else {
            let all: Vec<_> = lengths.iter().map(ToString::to_string).collect();
            let all = all.join(" or ");
            Wrong::new(format!("must have {all} octets, as `server_id_length` says"))
                .hint("two digits for each")
        };
        report.add(place, wrong);
    }
}

pub(super) fn model(quic: Quic) -> Option<QuicConfig> {
    Some(QuicConfig {
        id: quic.id?.value,
        server_id_length: quic.server_id_length?.value,
        nonce_length: quic.nonce_length?.value,
        key_file: quic.key_file?.value,
    })
}
