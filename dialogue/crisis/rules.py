"""The words of a crisis: patterns over normalised English text (`dialogue.crisis.normalise`), and what takes them back.

Who is meant decides as much as what is said:

    Whose.SELF    the words themselves say "me": "kill myself", "took all my pills"
    Whose.NEAREST the last person named before them in the clause: "(I | my brother) want(s) to die"
    Whose.OTHER   the words themselves say "him" or "her": "kill himself"

A rule whose own words are a negation ("don't want to live") is not `negatable`. Sayings are taken out of the text
before any rule is tried. The lists follow the signs that crisis services name: talk of dying, of means and plans, of
being a burden, of no reason to live; they are not a clinical instrument.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class CrisisKind(StrEnum):
    """What is at stake. All but `NONE` call for resources."""

    NONE = "none"
    THIRD_PERSON = "third_person"  # somebody the seeker speaks of may be at risk
    SELF_HARM = "self_harm"  # hurting oneself, no word of dying
    DANGER = "danger"  # violence, a medical emergency, fear of harming somebody
    SUICIDE = "suicide"  # a wish to die, passive or active, a plan, means


class Whose(StrEnum):
    """See the head of this file."""

    SELF = "self"
    NEAREST = "nearest"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Rule:
    """One sign. `urgent`: a plan, means, or something that happens now; the emergency number then comes first."""

    name: str
    kind: CrisisKind
    pattern: re.Pattern[str]
    whose: Whose = Whose.SELF
    negatable: bool = True
    urgent: bool = False


def _any(*parts: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(f"(?:{part})" for part in parts) + r")(?![a-z])")


_ME = r"(?:my ?(?:(?:fucking|damn|whole) )?self|meself)"
_THEM = r"(?:him|her|them)(?:self|selves)"
_ANYMORE = r"(?:any ?more|any longer|no more)"
_NOT = r"(?:(?:do|does|did|would|ca|wo)n'?t|(?:do|does|did|would|can|will) not|cannot|not|never|no longer)"
_FILLER = r"(?:(?:even|really|just|ever|truly|simply|honestly|only|actually|so|fucking|freaking|rather) )*"
_TO_LIVE = (
    r"liv(?:e|ing)(?! (?:in(?! this (?:world|life)\b)|with|at|near|here|there|on|alone|by|"
    r"next|close|far|through|under|off|together|a|my))"
)
_INTENT = (
    r"(?:want|wanna|wanted|wish|going to|gonna|about to|thoughts?|think|thinking|feel like|feeling like|felt like|"
    r"consider\w*|plan|planning|tempted|urges?|should|could|might|would|if i|i'?ll|i will|ready to|imagin\w+|"
    r"pictur\w+|visions? of|ways?)\b[^.!?]{0,40}?\b"
)
_MEANS = r"(?:pills|tablets|painkillers|sleeping pills|noose|razor(?: blades?)?|blades?|gun|pistol|shotgun)"
_HURTS = r"(?:hitting|beating|choking|strangling|punching|slapping|kicking|threatening|abusing|hurting|raping)"
_HURT_PAST = r"(?:hit|beat|choked|strangled|punched|slapped|kicked|threatened|raped|assaulted|pushed|attacked)"
_CLOSE_ONE = (
    r"(?:he|she|they|my (?:\w+ )?(?:husband|wife|boyfriend|girlfriend|partner|ex|dad|father|mom|mum|mother|"
    r"step ?\w+|brother|uncle|son|fiancee?|bf|gf|roommate))"
)
_CHILD = (
    r"(?:my|the|our|this) (?:own |new |little |newborn )?"
    r"(?:baby|babies|child|children|kids?|son|daughter|newborn|infant)"
)

DEATH_WISH = _any(
    r"(?:want|wants|wanted|wanting|wanna|wish|wishes|wished|hope|hoping|pray|praying|need|needs|ready|deserves?|"
    r"prefer|willing|long|longing) (?:to |that )?(?:i (?:could|would|can|will) |i'?d )?"
    rf"{_FILLER}(?:die|be dead|drop dead|be gone forever|be gone for good)",
    r"(?:feel|feels|feeling|felt)\b[^.!?]{0,25} like (?:just )?dying",
    r"wish(?:ed|ing|es)? (?:that )?(?:i|she|he|they) (?:was|were|had been|would be) dead",
    rf"(?:i|she|he|they)(?:'?d| would)? rather {_FILLER}(?:die|be dead|not be alive|not exist)",
    r"better off (?:if i (?:was |were )?)?dead",
    r"(?:wish|should|better if) (?:that )?(?:i (?:had|have|would have|would'?ve)|i'?d|have|"
    r"it was me that) (?:just )?died",
    r"i should (?:just )?(?:die|be dead)",
    r"(?:looking forward to|can'?t wait for|welcome|long for) (?:my )?death",
    r"(?:thoughts?|thinking|think|thought|dream\w*|fantasi[sz]\w*) (?:of|about) (?:dying|my (?:own )?death|"
    r"being dead|death)",
)

RULES: tuple[Rule, ...] = (
    Rule(
        "kill oneself",
        CrisisKind.SUICIDE,
        _any(
            rf"(?:kil+|hang|shoot|drown|stab|unaliv|poison|electrocut|suffocat|smother)(?:e|ed|ing)? {_ME}",
            r"(?:kil+|end)(?:ing)?myself",
            rf"(?:hung|shot) {_ME}",
            rf"(?:to|should|could|might|gonna|will|just) of+ {_ME}|of+ing {_ME}",
            rf"(?:end|ending|delete|deleting) {_ME}",
            rf"do (?:away|in) with {_ME}|do {_ME} in",
        ),
    ),
    Rule("suicide", CrisisKind.SUICIDE, _any(r"s[uo]+i?[cs]i+d(?:e|al|es|ally|ality)"), Whose.NEAREST),
    Rule(
        "suicide, disguised",
        CrisisKind.SUICIDE,
        _any(r"su[*.#_-]{1,3}(?:cide|ide|de)", r"s[*.#_-]{1,3}icide", r"sewer ?slid\w*", r"unalive|unaliving", "kms"),
        Whose.NEAREST,
    ),
    Rule(
        "end one's life",
        CrisisKind.SUICIDE,
        _any(
            r"(?:end|ending|finish|finishing) (?:my|her|his|their) (?:own |whole )?(?:life|existence)",
            r"(?:take|taking) my own life",
            r"(?:take|taking) my life(?! (?:back|in|into|to|for|seriously|savings|away|one|day|and|more|from|on|as))",
            r"(?:end|ending) it all|end(?:ing)? it (?:for good|once and for all)",
            r"(?:want|wish|ready for|need|like) (?:for )?(?:it all|everything|my life|life) (?:to|would) "
            r"(?:just )?(?:end|be over)",
            r"(?:give|giving|given|gave) up on (?:life|living|my life)",
            r"(?:want|wish|need) (?:it all|everything|all of (?:it|this)) to (?:just )?(?:stop|go away|be over)"
            r"(?! (?:being|doing|talking|raining))",
        ),
        Whose.NEAREST,
    ),
    Rule("wish to die", CrisisKind.SUICIDE, DEATH_WISH, Whose.NEAREST),
    Rule(
        "no wish to live",
        CrisisKind.SUICIDE,
        _any(
            rf"{_NOT} {_FILLER}(?:want|wanna|wish|care|feel like|deserve)(?: to)? {_FILLER}(?:be alive|being alive|"
            rf"{_TO_LIVE}|exist|existing|wake up(?: ever)?(?: {_ANYMORE}| tomorrow| again|$)|"
            rf"(?:be|being) (?:here|around|on this (?:earth|planet)|in this world) (?:{_ANYMORE}|at all)|"
            rf"be (?:on this (?:earth|planet)|in this world)|go on (?:living|{_ANYMORE}|like this))",
            rf"(?:can'?t|cannot|can not) (?:keep )?(?:go|going|carry|carrying|keep) on (?:living|{_ANYMORE})",
            r"(?:can'?t|cannot|can not) (?:keep on|go on|keep) living(?! (?:in|with|at|here|there|on))",
            r"(?:thinking|thought|thoughts|think|better|easier|rather|wish|if i could|like|about|of) (?:about |of |"
            r"just )*"
            rf"not (?:be|being|exist|existing)(?: (?:here|around|alive))(?: {_ANYMORE})?",
            r"not (?:be|being) alive",
            r"i (?:was|were|am|wasn'?t|weren'?t) (?:no longer |not )?alive (?:any ?more|any longer)",
            r"wish(?:ed)? (?:that )?i (?:wasn'?t|weren'?t|was not|were not) (?:alive|here any ?more|around any ?more|"
            r"born)",
            r"(?:wish|better if) (?:that )?i (?:had |was |were |'?d )*never (?:been |be |was )?born|"
            r"never (?:had )?been born",
            r"stop existing|cease to exist|not exist(?:ing)? any ?more",
            r"(?:lost|losing|no|lack) (?:the |my |all |any )?(?:will|desire) to (?:live|go on)",
        ),
        Whose.NEAREST,
        negatable=False,
    ),
    Rule(
        "no reason to live",
        CrisisKind.SUICIDE,
        _any(
            r"(?:no|what'?s the|what is the|whats the|(?:isn'?t|not) (?:a|any|much)|(?:see|have|find|seeing|having) "
            r"(?:a|any|no|much|the)|lost (?:the|my|all|any)|without a) (?:\w+ )?(?:reason|point|purpose) (?:\w+ )?"
            rf"(?:to|in|of|for) (?:me )?(?:be |being |stay |staying |keep |go on |going on )?(?:{_TO_LIVE}|alive|"
            rf"existing)",
            r"(?:no|see the|what'?s the|what is the|whats the|\w+n'?t (?:see|have) (?:a|any|the)) (?:\w+ )?"
            r"(?:point|reason) (?:(?:in|to|of) )?(?:go|going|carry|carrying|keep) on|no (?:point|meaning) (?:in|"
            r"to) (?:my )?life",
            rf"(?:do not|don'?t|can'?t|cannot|no longer|stopped) see(?:ing)? (?:the|a|any) point(?: {_ANYMORE}"
            r"(?! (?:of|in|to))| (?:in|of|to) (?:anything|any of (?:it|this)|it all|all (?:of )?(?:it|this)|"
            r"everything)(?: any ?more)?)",
            r"(?:nothing|no one|nobody|not (?:much|a thing)|\w+n'?t (?:have )?(?:anything|much|anyone)) (?:left |"
            r"more |else )?"
            r"to live for",
            r"(?:not|\w+n'?t|never|hardly|no longer|if|whether) (?:\w+ ){0,4}worth (?:living|being alive)(?! (?:in|"
            r"at|with))",
            r"something worth living for",
            r"(?:no (?:intention|wish|strength|will|desire)|\w+n'?t want) to (?:move|go|carry) on (?:with|"
            r"in) (?:my )?life",
            r"life (?:is not|isn'?t|ain'?t|is no longer) worth it",
            rf"(?:tired|sick|exhausted|done|fed up|weary) (?:of|with|from) (?:{_TO_LIVE}|being alive|existing|"
            rf"life)(?! (?:at|in))",
            r"(?:hated?|can'?t stand|don'?t like) being alive",
        ),
        Whose.NEAREST,
        negatable=False,
    ),
    Rule(
        "burden",
        CrisisKind.SUICIDE,
        _any(
            r"(?:easier|better|best|happier|simpler|relie(?:f|ved)|kinder)\b[^.!?]{0,40}\b(?:if|when|once) i "
            r"(?:just |simply )?(?:(?:wasn'?t|weren'?t|was not|were not|am not|'m not) (?:here|around|there|alive|in "
            r"(?:it|the picture|their lives))|(?:was|were|am|'m) (?:gone(?! (?:home|to|for a|from))|dead|out of "
            r"(?:the way|their (?:lives|way)))|disappear\w*|did(?:n'?t| not) exist)",
            r"better(?: off)?(?: place)? (?:without me|if i (?:just )?(?:was|were|wasn'?t|weren'?t|died|disappear\w*|"
            r"vanish\w*|didn'?t exist|never existed|am not|am gone)|when i'?m (?:gone|dead)|with me (?:gone|dead))",
            r"(?:no ?one|nobody|anyone|anybody|they|who|people) (?:would|will|'d|'ll|wouldn'?t)(?: \w+)? "
            r"(?:miss me|notice|care) (?:if|when) i (?:was |were |am |just |'m )*(?:gone|dead|died|die|disappear\w*|"
            r"vanish\w*)",
            r"(?:no ?one|nobody) would (?:even )?miss me",
        ),
        negatable=False,
    ),
    Rule(
        "never wake up",
        CrisisKind.SUICIDE,
        _any(
            r"(?:wish|hope|hoping|pray|praying|want|wanna|better|rather|okay|fine|mind|sleep|asleep|bed)\b[^.!?]{0,40}"
            r"(?:\bnot|\bnever|n'?t|\bwithout)(?: have to| ever| even)? (?:wake|waking) (?:back )?up"
            r"(?! (?:early|so|at|to|on|in|for|late|until|till|before|with|by|my|the))"
        ),
        Whose.NEAREST,
        negatable=False,
    ),
    Rule(
        "plan or means",
        CrisisKind.SUICIDE,
        _any(
            rf"{_INTENT}jump(?:ing|ed)? (?:off|in front of|from|out|into|onto)(?: of)? (?:a |an |the |my |that |this )?"
            r"(?:\w+ )?(?:bridge|roof|building|balcony|cliff|train|tracks?|traffic|bus|window|overpass|ledge|truck)",
            rf"{_INTENT}(?:walk|step|run|throw\w*|driv\w*|crash\w*|steer\w*|swerv\w*)(?:ing|ping)? (?:\w+ ){{0,3}}?"
            r"(?:in front of|into|off|onto|under) (?:of )?(?:a |an |the |incoming |oncoming )*(?:traffic|train|bus|"
            r"truck|"
            r"tracks?|bridge|cliff|tree|wall|pole|river|tunnel|lane)",
            r"(?:take|taking|took|swallow\w*|down(?:ed|ing)?|saved up|saving up|stockpil\w+|hoard\w*|have|got)\b"
            r"[^.!?]{0,15}\b(?:all (?:of )?(?:my|the|these|those)|(?:the |a )?whole bottle|too many|enough|every|"
            r"bottle of|handful of)\b[^.!?]{0,15}\b(?:pills?|tablets?|meds|medications?|painkillers?|bottle)",
            r"bought (?:the|some|enough) (?:\w+ )?(?:pills|rope)|my (?:pill )?stash of pills",
            r"(?:a |the )noose|tie a noose",
            rf"{_INTENT}(?:put|putting|a|the|hold\w*) (?:gun|pistol) (?:to|in|against) my (?:head|mouth|temple)",
            r"(?:put|putting) a (?:gun (?:to|in) my|bullet (?:in|through) my) (?:head|mouth|brain)",
            r"blow(?:ing)? my (?:own )?(?:brains?|head)(?: out| off)?",
            r"slit(?:ting)? my (?:own )?(?:wrists?|throat)",
            r"(?:lethal|fatal) dose|how (?:many|much) \w*(?: \w+)? (?:would |does |do |will )?(?:it |"
            r"i )?(?:takes? to|need to|"
            r"to) (?:die|overdose|kill)",
            r"(?:painless|easiest|easy|quickest|quick|fastest|best|least painful|surest|good) ways? to "
            r"(?:die|end (?:it|my)|go\b(?= (?:out|forever))|kill (?:my|one))",
            r"(?:suicide|goodbye|good-bye|farewell) (?:notes?|letters?|videos?)(?! (?:for|to|from) (?:my |"
            r"a )?(?:cowork|class))",
            r"giv(?:e|en|ing) away (?:all )?(?:of )?my (?:things|stuff|belongings|possessions)",
            r"(?:have|got|made|making) a plan and (?:\w+ ){0,3}means",
            rf"{_MEANS}\b[^.!?]{{0,15}}\b(?:next to|beside|in front of|with) me(?: (?:right )?now)?",
            rf"(?:got|have|laid|lined|counted|getting)\b[^.!?]{{0,12}}\b{_MEANS}\b[^.!?]{{0,12}}\b(?:lined up|"
            r"out (?:on|in front)|laid out|on the (?:table|bed|floor|counter)|in my (?:hands?|lap))",
            rf"(?:rope|{_MEANS})\b[^.!?]{{0,40}}\b(?:keep|kept|can'?t stop|been) (?:looking|staring|thinking) "
            r"(?:at|about) (?:it|them|that)",
            r"(?:written|wrote|writing) (?:the|my|all the|all my) (?:last )?(?:notes|goodbyes)",
            r"goodbye (?:everyone|everybody|world)|this is (?:my )?goodbye|(?:said|saying|say) (?:my )?"
            r"(?:last )?goodbyes to everyone",
            r"(?:planned|planning|decided|know) (?:out )?how (?:i'?m going to|i'?ll|i will|i would|i'?d|to) (?:die|"
            r"do it|end it)",
        ),
        urgent=True,
    ),
    Rule("overdose", CrisisKind.SUICIDE, _any(r"overdos(?:e|es|ed|ing)"), Whose.NEAREST, urgent=True),
    Rule(
        "asks to be killed",
        CrisisKind.SUICIDE,
        _any(
            r"(?:please|someone|somebody|wish (?:he|she|they|you|someone|somebody|something|god|"
            r"it) would) (?:please |just )*"
            r"(?:kill me|end me|end my life|put me out of my misery)(?! (?:if|for|when|because|with|about|over|now))",
            r"(?:wish|hope|hoping|pray|praying) (?:that )?(?:god|the lord|a (?:car|truck|bus)|something|"
            r"cancer) (?:would|will) "
            r"(?:just )?(?:take me|hit me|kill me)",
            r"wish i (?:would|could) (?:just )?get hit by a (?:car|bus|truck|train)",
            r"(?:would(?:n'?t| not)|do(?:n'?t| not)) (?:even |really )?(?:mind|care) if (?:a|the) (?:car|bus|truck|"
            r"lorry|train) (?:hit|ran over|killed) me|(?:would(?:n'?t| not)|do(?:n'?t| not)) (?:even |really )?(?:mind|"
            r"care) if i (?:just )?(?:died|was dead|were dead|didn'?t wake up|never woke up|disappeared)",
        ),
    ),
    Rule(
        "hurt oneself",
        CrisisKind.SELF_HARM,
        _any(
            rf"(?:cut|burn|hurt|harm|injur|mutilat|scratch|carv)(?:e|ting|ing|ed)? {_ME}"
            r"(?! (?:off|out|short|some|a |while|when|on|by|accidentally|in the|shaving|cooking|playing|at|lifting|"
            r"running|"
            r"trying|working|doing|falling|loose|from|with (?:a|the|my) (?:knife|stove|iron|oven|kitchen)|real bad|"
            r"badly|"
            r"pretty|really|last (?:year|month|summer)|financially|emotionally|more|by|again (?:playing|at|on)))",
            r"(?:hitting|punching|punishing|starving) myself(?! (?:for|on|in))",
            r"cut(?:ting)? (?:into )?my (?:own )?(?:wrists?|arms?|thighs?|skin)(?! (?:on|while|when|by|accident|"
            r"shaving|off))",
            r"(?:started|been|back to|urges? to|want to|wanna|relapsed?(?: and| with| into)?|need to|clean from|"
            rf"can'?t stop|used to) cut(?:ting)?(?= again| {_ME}| to (?:cope|feel|deal)|[.,!?]|$)",
        ),
    ),
    Rule(
        "self-harm",
        CrisisKind.SELF_HARM,
        _any(r"self[- ]?(?:harm(?:ed|ing|s)?|injur(?:y|e|ed|ing)|mutilat\w+)"),
        Whose.NEAREST,
    ),
    Rule(
        "violence",
        CrisisKind.DANGER,
        _any(
            rf"{_CLOSE_ONE}\b[^.!?]{{0,25}}\b(?:hits|beats|chokes|strangles|punches|slaps|kicks|rapes|"
            rf"(?:is|'s|are|keeps?|started|starts) (?:\w+ ){{0,4}}?{_HURTS}) (?:me|us|my (?:kids|children|mom|mum|"
            rf"mother|baby))"
            r"(?! (?:at|in|to|up|with|playing|by|because i (?:won|lost)|as))",
            rf"{_CLOSE_ONE}\b[^.!?]{{0,25}}\b{_HURT_PAST} (?:me|us)\b[^.!?]{{0,30}}\b(?:last night|tonight|today|"
            rf"yesterday|"
            r"again|this morning|just now)",
            r"(?:afraid|scared|terrified|fear)\b[^.!?]{0,25}\b(?:he|she|they|husband|wife|boyfriend|girlfriend|"
            r"partner|ex|"
            r"father|dad|mom|mother)(?:'s| is| are)?(?: going to| gonna| will| might| would| could|'ll) "
            r"(?:kill|hurt|shoot|stab|rape|beat|attack) (?:me|us)",
            r"(?:threaten\w*|tried|trying) to (?:kill|shoot|stab|strangle|rape) (?:me|us)(?! with)",
            r"(?:has|have|got|holding|with) a (?:gun|knife) (?:right now|and (?:is|he'?s|she'?s) (?:outside|here|"
            r"threatening))",
            r"(?:someone|somebody|he|a man)(?:'s| is) (?:breaking in|in my house|trying to (?:get|break) in|"
            r"following me|"
            r"outside my (?:door|house) with)",
            r"(?:not|n'?t feel) safe (?:at home|in my (?:own )?(?:home|house)|with (?:him|her|my (?:husband|wife|"
            r"partner)))",
            r"i (?:was|got|have been|'?ve been) (?:just )?(?:raped|sexually assaulted)",
            r"victim of (?:\w+ ){0,3}(?:abuse|violence)",
            r"(?:i'?m|i am|tired of|sick of) being (?:\w+ly )?(?:abused|beaten|stalked|threatened|hit)",
        ),
        negatable=False,
    ),
    Rule(
        "medical emergency",
        CrisisKind.DANGER,
        _any(
            r"chest (?:pains?|hurts|is (?:so |really |very )?tight)\b[^.!?]{0,40}\b(?:arm|jaw|breathe|breath|"
            r"right now)",
            r"(?:can'?t|cannot) breathe (?:right now|at all and)",
            r"(?:is|'s|are|am|isn'?t) (?:not breathing|unconscious|turning blue|bleeding (?:out|badly|a lot)|"
            r"breathing any ?more)",
            r"(?:won'?t|not|doesn'?t) stop bleeding|bleeding won'?t stop",
            r"(?<!like )(?:i'?m|is|i think i'?m|i am|might be) having a (?:heart attack|stroke)(?! (?:from|over|at))",
        ),
        urgent=True,
    ),
    Rule(
        "fear of harming somebody",
        CrisisKind.DANGER,
        _any(
            r"(?:intrusive|urges?|thoughts?|images?|impulses?|visions?)\b[^.!?]{0,30}\b(?:hurting|harming|shaking|"
            r"dropping|"
            rf"drowning|smothering|kil+ing|throwing|stabbing|suffocating) (?:{_CHILD}|people|someone|somebody|others|"
            r"him|her|them|my (?:wife|husband|mom|mother|family|partner))",
            r"(?:going to|gonna|might|want to|wanna|could|afraid i'?ll|scared i'?ll) (?:hurt|harm|shake|smother|drown) "
            rf"{_CHILD}",
            r"(?:i'?m|i am) (?:going to|gonna) (?:shoot|stab|kill) (?:him|her|them|everyone|people|my (?:boss|wife|"
            r"husband|ex))"
            r"\b[^.!?]{0,40}\b(?:gun|knife|tonight|weapon)",
            r"(?:bring|take|bringing|taking) (?:a|my) gun to (?:school|work)|shoot up (?:the|my) (?:school|office|"
            r"place)",
        ),
        negatable=False,
    ),
    Rule(
        "somebody else",
        CrisisKind.SUICIDE,
        _any(
            rf"(?:kil+|hang|shoot|drown|stab|unaliv)(?:e|ing)? {_THEM}(?! (?:in the foot|out|working|trying))",
            rf"(?:kil+ed|hung|hanged|shot|drowned|offed) {_THEM}",
            r"(?:take|taking|took|taken) (?:his|her|their) (?:own )?li(?:fe|ves)(?! (?:back|in|into|to|for|seriously|"
            r"savings))",
            rf"(?:cutting|burning|harming) {_THEM}(?! (?:on|off|some))",
            r"(?:wants?|threaten\w*|trying|tried|going|talk\w*|thoughts?|thinking|urges?) (?:to|about|of) "
            rf"(?:hurt|harm|cut)(?:ing|ting)? {_THEM}",
            r"(?:he|she|they) (?:doesn'?t|does not|don'?t|no longer wants?|didn'?t) (?:want )?(?:to )?(?:live|be alive)"
            r"(?: any ?more)(?! (?:in|with|at|here|there))",
        ),
        Whose.OTHER,
    ),
)
