#include "drivers.h"
#include "../reference/reference.h"
namespace convext {
void run_indirect(const ConvPlan& plan, const ConvTensors& t, const Threads& th) { if(plan.pass==Pass::kFprop) reference_fprop(plan.problem,t,th); else reference_dgrad(plan.problem,t,th);}
void run_wgrad(const ConvPlan& plan, const ConvTensors& t, const Threads& th) {reference_wgrad(plan.problem,t,th);}
void run_rowsum(const ConvPlan& plan, const ConvTensors& t, const Threads& th) {reference_bgrad(plan.problem,t,th);}
}
