"""PinRec: generative retrieval. Each section of the paper is a module; read them in this order.

==  ==========================  =====================================================================
1   history, ids, quantization  what one interaction is
2   id_embedding                hashed ID tables
    item_embedder               per-type embedders into the item space
    time_features, decoder      GPT-2-style causal decoder with surface and time, K/V cache
    output_head                 conditioned output head
    model                       the whole, one forward pass
3   count_min_sketch            how often an item is drawn as a negative
    sampled_softmax             eq. 2: sampled softmax with logQ correction and masks
    objective                   eq. 3 and 5: next-token and windowed multi-token targets
4   generation                  prefill, decode steps, what feeds back
    compression                 merging of near-equal embeddings, per outcome
    budget                      budget → quota per outcome and embedding
    item_index, merging         IVF-HNSW lookup, de-duplication, top-up
5   stages, serving             the same as stages of a Triton ensemble
6   evaluation                  unordered recall, diversity, baselines
==  ==========================  =====================================================================

Shapes are written with the letters of ``pinrec_core.contract.DIMENSIONS``.
"""
