//! One family after the other.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, histogram::Histogram},
};

/// Labels of a sample.
pub(super) type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

/// Where families are written.
pub(super) struct Page<'e> {
    encoder: DescriptorEncoder<'e>,
}

impl<'e> Page<'e> {
    pub(super) fn new(encoder: DescriptorEncoder<'e>) -> Self {
        Self { encoder }
    }

    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }

    /// What does not change while the agent runs.
    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_, N>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Info)?.encode_info(&labels)
    }

    /// A value.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// Values.
    pub(super) fn gauges<'l, V: EncodeGaugeValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'l, N>, V)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        values
            .into_iter()
            .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// A count; its sample is called `NAME_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        count_in(&mut self.family(name, help, MetricType::Counter)?, count)
    }

    /// Counts.
    pub(super) fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        counts: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        counts
            .into_iter()
            .try_for_each(|(labels, count)| count_in(&mut family.encode_family(&labels)?, count))
    }

    /// Distributions.
    pub(super) fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Labels<'l, N>, &'l Histogram)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        all.into_iter().try_for_each(|(labels, one)| one.encode(family.encode_family(&labels)?))
    }
}

fn count_in(family: &mut MetricEncoder<'_>, count: u64) -> fmt::Result {
    family.encode_counter::<[(&str, &str); 0], u64, u64>(&count, None)
}
