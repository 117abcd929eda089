//! The part of a configuration that both nodes of a pair share: services and
//! firewall, as keys and values.

use serde_json::{Value, json};

use super::{Loaded, Mistake, check_together, overlay::firewall_from, render, service_from};
use crate::core::{
    model::Model,
    replica::{Base, Digest},
};

/// That part of this configuration.
#[must_use]
pub fn base(model: &Model) -> Base {
    Base::new(
        model.services.iter().map(render::service).collect(),
        render::firewall(&model.firewall),
    )
}

/// Of that part as it is written, so that no other version of this program takes a
/// file for another that it is not.
#[must_use]
pub fn written(Loaded { text, .. }: &Loaded) -> Digest {
    let parts = toml::from_str::<Value>(text).unwrap_or_default();
    Digest::of(&json!([parts["service"], parts["firewall"]]))
}

/// `own` with another node's services and firewall.
///
/// # Errors
/// They are not right, or not beside what `own` says.
pub fn with_base(own: &Model, base: &Base) -> Result<Model, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut services = Vec::with_capacity(base.services().len());
    for keys in base.services() {
        match service_from(keys) {
            Ok(service) => services.push(service),
            Err(wrong) => mistakes.extend(wrong),
        }
    }
    match firewall_from(base.firewall()) {
        Ok(firewall) if mistakes.is_empty() => {
            check_together(&services, &firewall, &own.node, own.ha.as_ref())?;
            Ok(Model { services, firewall, ..own.clone() })
        }
        firewall => {
            mistakes.extend(firewall.err().unwrap_or_default());
            Err(mistakes)
        }
    }
}
