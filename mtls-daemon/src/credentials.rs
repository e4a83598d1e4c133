//! The TLS settings of the workloads that one worker serves, made anew when a
//! workload's SVID or its trust bundles change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::Clock;
use crate::identity::{Svid, TrustBundles};
use crate::netns::Cookie;
use crate::reason::Reason;
use crate::refused::Refused;
use crate::tls::{Judging, WorkloadTls};
use crate::workload::Workload;

pub struct Credentials {
    judging: Judging,
    made: RefCell<HashMap<Cookie, Made>>,
}

struct Made {
    generation: u64,
    tls: Rc<WorkloadTls>,
}

impl Credentials {
    pub fn new(judging: Judging) -> Self {
        Self {
            judging,
            made: RefCell::default(),
        }
    }

    pub fn clock(&self) -> &Clock {
        &self.judging.clock
    }

    /// The newest settings of `workload`; refused without a valid SVID.
    pub fn of(&self, workload: &Workload) -> Result<Rc<WorkloadTls>, Refused> {
        let identity = workload.identity.borrow();
        let svid = match &identity.svid {
            Some(svid) if svid.good_until() > self.judging.clock.now() => svid,
            Some(_) => return Err(Refused::new(Reason::NoCert, "the certificate has expired")),
            None => {
                let why = identity.failure.as_deref().unwrap_or("none was issued yet");
                return Err(Refused::new(Reason::NoCert, why));
            }
        };
        let instance = workload.netns.cookie();
        let mut made = self.made.borrow_mut();
        if let Some(found) = made.get(&instance)
            && found.generation == identity.generation
        {
            return Ok(Rc::clone(&found.tls));
        }
        let tls = self.make(svid, &identity.bundles).map(Rc::new)?;
        made.insert(
            instance,
            Made {
                generation: identity.generation,
                tls: Rc::clone(&tls),
            },
        );
        Ok(tls)
    }

    /// The workload is gone: drop its private key.
    pub fn forget(&self, instance: Cookie) {
        self.made.borrow_mut().remove(&instance);
    }

    fn make(&self, svid: &Arc<Svid>, bundles: &TrustBundles) -> Result<WorkloadTls, Refused> {
        WorkloadTls::new(Arc::clone(svid), bundles.clone(), self.judging.clone())
            .map_err(|error| Refused::new(Reason::Internal, format!("TLS settings: {error}")))
    }
}
