"""The Triton kernels in Triton's interpreter against the oracle; run in a process of its own by test_fused_triton.py.

The interpreter is chosen when the kernels' module is imported, for the whole process.
"""
from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"
import torch

from tiekd_cache.dpm import Bins, depth_to_dpm, dpm_to_depth
from tiekd_cache.losses import dpm_kl
from tiekd_cache.losses.fused_triton import dpm_terms_triton

bins = Bins.uniform(1e-3, 80.0, 49)
import time
for form in ("released", "gaussian"):
  for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for K,C,T in ((49,16,2),(257,16,1),(257,8,2)):
        bins = Bins.uniform(1e-3, 80.0, K)
        g = torch.Generator().manual_seed(1)
        B,H,W=2,5,7
        f = torch.randn(B,C,H,W,generator=g).to(dtype).requires_grad_()
        w = torch.randn(K,C,1,1,generator=g).to(dtype).requires_grad_()
        b = torch.randn(K,generator=g).to(dtype).requires_grad_()
        d = torch.rand(B,T,H,W,generator=g)*79+.5
        wt = torch.rand(B,T,H,W,generator=g); wt[wt<.3]=0
        wt = wt/wt.sum(1,keepdim=True).clamp(min=1e-9)
        t0=time.time()
        kl, depth = dpm_terms_triton(f,w,b,d,wt,bins.centers,1.5 if K==49 else .8,0.0,form,True)
        ug=torch.randn(2,B,1,H,W,generator=g)
        gr = torch.autograd.grad((kl*ug[0]+depth*ug[1]).sum(), [f,w,b])
        t1=time.time()
        F,Wt,Bb=[x.detach().float().requires_grad_() for x in (f,w,b)]
        lg=torch.nn.functional.conv2d(F,Wt,Bb)
        k2=sum(wt[:,t:t+1]*dpm_kl(lg,d[:,t:t+1],bins,1.5 if K==49 else .8,form) for t in range(T))
        d2=dpm_to_depth(lg.softmax(1),bins)
        gr2=torch.autograd.grad((k2*ug[0]+d2*ug[1]).sum(), [F,Wt,Bb])
        print(form,dtype,K,C,T,round(t1-t0,2),(kl-k2).abs().max().item(),(depth-d2).abs().max().item(),[((a.float()-c).abs().max()/c.abs().max()).item() for a,c in zip(gr,gr2)])
