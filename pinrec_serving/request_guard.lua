-- Looks at the shapes in a request before Triton does, and says what is wrong with it, if anything.
--
-- Triton 2.51 multiplies the sizes of a shape without noticing that the product exceeds 64 bits. A tensor of
-- [1, 4611686018427387904] FP32 then counts as one of no bytes, and ends the process of the stage that is given it. And
-- it never answers a request whose tensors have no rows, nor unloads a model that was given one; nor a model that was
-- given several texts at once of which one is longer than its tensor. Such requests have a hundred bytes and less, so they
-- are refused here. So is a message that names two models, because the rules of guard.cfg look at
-- the first name and Triton takes the last; and one that asks for another version of a model or for shared memory, which
-- Triton answers like a model that is not there.
--
-- Over gRPC the message is gRPC's frame (a flag, four bytes of length) around the protobuf message ModelInferRequest, of which the
-- field numbers below are. guard.cfg has waited for all of it: what does not fit its buffer was refused before.

local MODEL_NAME, MODEL_VERSION, INPUTS, OUTPUTS, CONTENTS = 1, 2, 5, 6, 7 -- of ModelInferRequest
local DATATYPE, SHAPE, INPUT_PARAMETERS = 2, 3, 4 -- of an input
local OUTPUT_PARAMETERS = 2 -- of an output
local VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5 -- protobuf's wire types
local MOST_TEXTS = 10000 -- of a tensor
local MOST_ELEMENTS = 1 << 30 -- of a shape; a message that fits the buffer has far fewer

-- The number at `at` and where the next byte is; nil where it does not end within ten bytes or before `stop`.
local function varint(data, at, stop)
    local value, shift = 0, 0
    while at < stop and shift < 70 do
        local byte = data:byte(at)
        if shift < 63 then
            value = value | ((byte & 0x7f) << shift)
        elseif byte ~= 0 then
            value = -1 -- the sign of a negative number, or more than 64 bits: out of every range below
        end
        at = at + 1
        if byte < 0x80 then
            return value, at
        end
        shift = shift + 7
    end
    return nil
end

-- Calls visit(number, wire, first, stop, value) for every field in [at, stop); stops at what visit returns. Returns
-- "malformed" where there is no message.
local function fields(data, at, stop, visit)
    while at < stop do
        local tag, first = varint(data, at, stop)
        if not tag or tag >> 3 == 0 then
            return "malformed"
        end
        local wire, value, ends = tag & 7, nil, nil
        if wire == VARINT then
            value, ends = varint(data, first, stop)
        elseif wire == FIXED64 then
            ends = first + 8
        elseif wire == FIXED32 then
            ends = first + 4
        elseif wire == BYTES then
            local size, from = varint(data, first, stop)
            if size and size >= 0 and size <= stop - from then
                first, ends = from, from + size
            end
        end
        if not ends or ends > stop then
            return "malformed"
        end
        local fault = visit(tag >> 3, wire, first, ends, value)
        if fault then
            return fault
        end
        at = ends
    end
end

local function fault_of_shape(sizes)
    local elements = 1
    for _, size in ipairs(sizes) do
        if size < 0 or size > MOST_ELEMENTS then
            return "shape"
        end
        elements = elements * math.max(size, 1)
        if elements > MOST_ELEMENTS then
            return "shape"
        end
    end
    if sizes[1] ~= 1 then
        return "rows"
    end
end

-- What is wrong with one input. Adds to `texts` how many texts its contents are, or false where they are numbers.
local function fault_of_input(data, at, stop, texts)
    local sizes, datatype = {}, ""
    local fault = fields(data, at, stop, function(number, wire, first, ends, value)
        if number == INPUT_PARAMETERS then
            return "parameters"
        elseif number == DATATYPE and wire == BYTES then
            datatype = data:sub(first, ends - 1)
        elseif number == SHAPE and wire == VARINT then
            sizes[#sizes + 1] = value
        elseif number == SHAPE and wire == BYTES then -- packed
            while first < ends do
                local size
                size, first = varint(data, first, ends)
                if not size then
                    return "malformed"
                end
                sizes[#sizes + 1] = size
            end
        end
    end)
    if fault then
        return fault
    end
    local elements = 1
    for _, size in ipairs(sizes) do
        elements = elements * math.min(math.max(size, 0), MOST_ELEMENTS)
    end
    texts[#texts + 1] = datatype == "BYTES" and elements
    return fault_of_shape(sizes)
end

-- Whether [at, stop) is `count` texts, each behind its length.
local function are_texts(data, at, stop, count)
    while at + 4 <= stop and count > 0 do
        at = at + 4 + string.unpack("<I4", data, at)
        count = count - 1
    end
    return at == stop and count == 0
end

local SAID = {
    incomplete = "request: expected all of an uncompressed message within 5 seconds",
    malformed = "request: expected a message ModelInferRequest",
    model = "model_name: expected one name",
    version = "model_version: expected none",
    parameters = "parameters: expected none of inputs and outputs; shared memory is not offered",
    shape = "shape: expected sizes of at least 0 whose product is at most " .. MOST_ELEMENTS,
    texts = "contents: expected texts of the number that their shape says, at most " .. MOST_TEXTS,
    binary = "request: expected all tensors in JSON",
    rows = "shape: expected 1 row, the first size, one request per message",
}

local function fault_of_message(body)
    if #body < 5 or body:byte(1) ~= 0 then
        return "incomplete"
    end
    local stop = 6 + string.unpack(">I4", body, 2)
    if stop ~= #body + 1 then
        return "incomplete"
    end
    local names, texts, contents = 0, {}, {}
    local fault = fields(body, 6, stop, function(number, wire, first, ends)
        if number == MODEL_NAME then
            names = names + 1
            if names > 1 or wire ~= BYTES then
                return "model"
            end
        elseif number == MODEL_VERSION then
            return "version"
        elseif number == INPUTS and wire == BYTES then
            return fault_of_input(body, first, ends, texts)
        elseif number == CONTENTS and wire == BYTES then
            contents[#contents + 1] = {first, ends}
        elseif number == OUTPUTS and wire == BYTES then
            return fields(body, first, ends, function(part)
                return part == OUTPUT_PARAMETERS and "parameters" or nil
            end)
        end
    end)
    if fault then
        return fault
    end
    for number, part in ipairs(contents) do -- in the order of the inputs; where there are more or fewer, Triton says so
        local count = texts[number]
        if count and (count > MOST_TEXTS or not are_texts(body, part[1], part[2], count)) then
            return "texts"
        end
    end
end

-- The same for a request over HTTP, whose tensors are described in JSON: every member `shape` is looked at, wherever it
-- stands. A name may be written with escapes, which nobody does who means well.
local function fault_of_json(json)
    local at = 1
    while true do
        local from = json:find('"', at, true)
        if not from then
            return nil
        end
        local ends = from + 1
        while true do -- to the quote that ends the string
            ends = json:find('["\\]', ends)
            if not ends then
                return "malformed"
            end
            if json:byte(ends) == 0x22 then
                break
            end
            ends = ends + 2
        end
        local value = json:match("^%s*:%s*()", ends + 1)
        if value then
            local name = json:sub(from + 1, ends - 1)
            if name:find("\\", 1, true) then
                return "malformed"
            end
            if name == "shape" then
                local list = json:match("^%[([%d%s,]*)%]", value)
                if not list then
                    return "shape"
                end
                local sizes = {}
                for digits in list:gmatch("%d+") do
                    sizes[#sizes + 1] = #digits <= 10 and tonumber(digits) or -1
                end
                local fault = fault_of_shape(sizes)
                if fault then
                    return fault
                end
            end
        end
        at = ends + 1
    end
end

-- Without a verdict, as when no memory is left for it, guard.cfg refuses the request.
local function guard(fault_of)
    return function(txn)
        local fault = fault_of(txn, txn.sf:req_body() or "")
        txn:set_var("txn.verdict", fault and SAID[fault] or "sound")
    end
end

core.register_action("guard_grpc", {"http-req"}, guard(function(_, body)
    return fault_of_message(body)
end), 0)

core.register_action("guard_http", {"http-req"}, guard(function(txn, body)
    if txn.f:req_hdr("inference-header-content-length") then
        return "binary"
    end
    if tonumber(txn.f:req_hdr("content-length")) ~= #body then -- nobody has seen what does not fit the buffer
        return "incomplete"
    end
    return fault_of_json(body)
end), 0)
