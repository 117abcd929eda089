//! What every step needs: the frame's context and the configuration in force.

use core::ptr;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    config::{Config, Filter, Generation, filter_bit},
    trace::Record,
};

use crate::{
    family::Family,
    maps::{CONFIG, TRACE},
};

/// The surroundings of one run.
#[derive(Clone, Copy)]
pub(crate) struct Env {
    /// The kernel's context.
    pub ctx: *mut xdp_md,
    /// Global state.
    pub config: &'static Config,
    /// The generation in force.
    pub generation: &'static Generation,
    /// Its bank: 0 or 1.
    pub bank: u32,
    /// Whether the run only explains: it leaves no trace but in `TRACE`. A
    /// constant in the programs, so that it costs nothing there.
    pub explains: bool,
}

impl Env {
    /// Reads the generation in force, once for the whole run.
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext, explains: bool) -> Option<Self> {
        let config = CONFIG.get(0)?;
        let bank = config.active & 1;
        // The mask is all the verifier needs to see that the index is in range.
        let generation = &config.generations[bank as usize];
        Some(Self { ctx: ctx.ctx, config, generation, bank, explains })
    }

    /// The same where only tables are looked into: it has no context.
    #[inline(always)]
    pub(crate) fn without_packet() -> Option<Self> {
        Self::new(&XdpContext::new(ptr::null_mut()), false)
    }

    /// Notes what was found, if the run explains.
    #[inline(always)]
    pub(crate) fn note(&self, note: impl FnOnce(&mut Record)) {
        if self.explains
            && let Some(record) = TRACE.get_ptr_mut(0)
        {
            // SAFETY: a map element; the agent starts one such run at a time.
            note(unsafe { &mut *record });
        }
    }

    /// Interface the packet came in by.
    #[inline(always)]
    pub(crate) fn ingress(&self) -> u32 {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// The current second, see [`now`].
    #[inline(always)]
    pub(crate) fn now(&self) -> u16 {
        now(self.config)
    }

    /// Whether a filter of addresses may contain one.
    #[inline(always)]
    pub(crate) fn may_contain<F: Family>(filter: &Filter, addr: F::Addr) -> bool {
        let (word, bit) = filter_bit(F::words(addr));
        filter[word & 3] & bit != 0
    }

    /// Whether a feature is in use, a bit of [`lb_common::config::features`].
    #[inline(always)]
    pub(crate) fn uses(&self, feature: u32) -> bool {
        self.generation.features & feature != 0
    }
}

/// The current second, see [`lb_common::flow::second`].
#[inline(always)]
pub(crate) fn now(config: &Config) -> u16 {
    lb_common::flow::second(jiffies(), config.tick_scale)
}

/// The kernel's ticks. Inlined by the kernel, unlike its clocks in nanoseconds.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: no arguments; since Linux 5.5.
    unsafe { aya_ebpf::helpers::generated::bpf_jiffies64() }
}
