"""What takes the words of a crisis back: sayings, accidents, negations, stories, and losses that lie in the past.

All patterns read normalised text (`dialogue.crisis.normalise`).
"""

from __future__ import annotations

import re

_OF_WHAT = (
    r"embarr?as+m?ent|embarr?as+ing|shame|laughter|laughing|boredom|curiosity|happiness|joy|excitement|cringe\w*|"
    r"humiliation|hunger|heat|thirst|nerves|jealousy|cuteness|awkwardness|mortification|stress|old age"
)

# Taken out of the text before any rule reads it.
SAYINGS = re.compile(
    r"\b(?:"
    rf"(?:die|died|dying|dead) (?:of|from|with|out of) (?:\w+ )?(?:{_OF_WHAT})"
    r"|(?:die|died|dying) laughing"
    r"|(?:want|wanted|wanna|ready|like|about) (?:to )?(?:just )?die (?:of|from|with|out of) (?:\w+ )?"
    rf"(?:{_OF_WHAT})"
    r"|rather die than (?!live|keep|go on|continue|wake|face|be here|suffer|stay alive)"
    r"|(?:dying|die|died) (?:to (?:know|see|get|go|try|meet|hear|eat|find|tell|have|do|be|play|visit|buy|watch|share)|"
    r"for (?:a|an|some|the|this|it|that|more))"
    r"|to die for"
    r"|(?:nearly|almost|practically|about|could have|could'?ve|coulda|could) (?:kil+(?:ed)?|hung|shot) (?:my ?self)"
    r"(?! (?:last|yesterday|tonight|today|again|because|with|by|on purpose|[.!?]|$))"
    r"|kil+(?:ed|ing)? my ?self (?:laughing|trying|studying|working|running|training|(?:at|with) (?:work|the gym|"
    r"school|"
    r"overtime|exercise)|over (?:this|a|the|my) (?:project|exam|job|diet|homework|paper|essay))"
    r"|work(?:ing|ed)? my ?self to death"
    r"|(?:shoot|shot|shooting) my ?self in the (?:foot|leg)"
    r"|hang(?:ing)? my ?self out to dry"
    r"|drown(?:ing|ed)? my ?self in (?:my |a |some |the )?(?!the (?:river|lake|sea|ocean|bath))\w+"
    r"|overdos(?:e|ed|ing) on (?:\w+ )?(?:chocolate|sugar|caffeine|coffee|candy|food|sweets|turkey|cute\w*|tv|"
    r"netflix|carbs|"
    r"pizza|ice cream|vitamins?)"
    r"|(?:career|social|political|financial|professional|commercial|academic) suicide"
    r"|suicid(?:e|al) (?:squad|bomb\w*|door|doors|king|wings|sauce|mission|sprints?|drills?|runs?|burger|"
    r"prevention \w+|"
    r"awareness|rates?|statistics|girls?)"
    r"|if (?:your|all your|my|everyone|everybody|all my)(?: \w+)? (?:friends )?jump(?:ed|s)? off (?:a|the) (?:bridge|"
    r"cliff|roof)"
    r")(?![a-z])"
)

# In a turn with these words, having wanted to die in the past tense tells of embarrassment.
EMBARRASSED = re.compile(
    r"\b(?:embar\w+|mortif\w+|humiliat\w+|awkward\w*|blush\w*|cring\w+|laugh\w*|fart\w*|zipper|tripped|my pants)\b"
)
PAST_WISH = re.compile(r"\b(?:wanted|wished|felt like|should have|was ready|was hoping|could have)\b")

# A leap for fun or in a story.
LEISURE = re.compile(
    r"\b(?:bungee\w*|bungy|skydiv\w*|parachut\w*|paraglid\w*|swimm\w*|cliff ?div\w*|diving|vacation|trampoline|"
    r"zip ?lin\w*|"
    r"snowboard\w*|sledd\w*)\b"
)

# Something that happened to the body by chance.
ACCIDENT = re.compile(
    r"\b(?:accident\w*|by mistake|clumsy|slipped|tripped|fell|fall|cooking|kitchen|shaving|chopping|slicing|stitches|"
    r"gym|"
    r"work ?out|lifting|football|basketball|soccer|skateboard\w*|skiing|hot (?:oil|water|pan|stove)|stove|oven|iron|"
    r"glue)\b"
)

# A film, a lesson, the news: the word stands for the subject.
STORY = re.compile(
    r"\b(?:movie|film|book|novel|show|series|episode|season|documentary|podcast|article|song|lyrics|video game|"
    r"character|"
    r"celebrity|celebrities|singer|actor|on the news|the news|headline|class on|lecture|13 reasons)\b"
)

STORY_ABOUT = re.compile(
    rf"{STORY.pattern}[^.!?]{{0,20}}\b(?:about|on|where|in which|deal(?:s|ing) with|called|of)\b[^.!?]{{0,20}}$"
)

# Somebody died by their own hand: grief, and no danger to the one who is spoken of.
LOSS = re.compile(
    r"\b(?:(?:commit(?:ted|s)?|com+it+ed|died?|dies|dead|lost|loss|death|passed(?: away)?)\b[^.!?]{0,30}$"
    r"|(?:after|since|from|because of|about) (?:his|her|their|the|a) $"
    r"|(?:\w+'s|his|her) $)"
)
# Violence that is over: it weighs, and nobody is in danger now.
LONG_AGO = re.compile(
    r"\b(?:years? ago|when i was|as a (?:child|kid|teen\w*)|in my (?:childhood|teens)|growing up|in (?:college|"
    r"school)|back then)\b"
)
LOST_TO = re.compile(r"\b(?:lost|losing) (?:[\w']+ ){1,3}(?:to|from) $")
PAST_ACT = re.compile(r"^(?:kil+ed|hung|hanged|shot|drowned|offed|took|taken|overdosed)\b")
ATTEMPT = re.compile(
    r"\b(?:attempt\w*|tr(?:y|ied|ies|ying)|threat\w*|wants?|wanted|wanting|going to|gonna|think\w*|thoughts?|"
    r"contemplat\w*|"
    r"consider\w*|says?|saying|might|may|will|almost|nearly|is|are|been|talk\w*)\b"
)

# Words between a negation and what it denies: "I'm not (really thinking about) killing myself".
_BETWEEN = (
    r"to|want|wants|wanting|wanna|going|gonna|ever|even|really|actually|think|thinking|thought|thoughts|about|of|on|"
    r"plan|"
    r"plans|planning|planned|intend|intending|intention|intentions|would|wish|desire|feel|feeling|felt|like|have|"
    r"having|"
    r"had|any|consider|considering|considered|try|trying|tried|mean|meaning|am|i|i'm|im|i'd|that|been|be|being|the|a|"
    r"an|"
    r"active|actively|truly|seriously|ready|willing|allow|say|saying|said|urge|urges|do|commit|committing|attempt|or|"
    r"and|"
    r"suicide|suicidal|die|death|depressed|crazy|he|she|they|is|was|be|tell|telling|just|so|at|all|attempted|reason|"
    r"why|by|"
    r"ideation|dying"
)
NEGATION = re.compile(
    r"(?:\b(?:not|never|no|none|nor|neither|without|no longer|far from|isnt|dont|didnt|doesnt|wont|wouldnt|wasnt|"
    r"arent|havent|hasnt|hadnt|aint|shouldnt)|(?!ca|could)\b[a-z]+n't"
    r"|(?<!never )(?<!n't )(?<!not )\bstopped)"
    rf"(?: (?:{_BETWEEN}))*[ ,]*$"
)
# What comes before the negation and takes its force: "I can't promise I won't ...", "trying not to ...".
NO_FORCE = re.compile(
    r"(?:(?:can'?t|cannot|not|n't|never|dont|un)(?: \w+){0,2} ?(?:promise|sure|certain|guarantee|trust|swear|say|"
    r"know)\b[^.!?]{0,20}"
    r"|\b(?:try|trying|tried|hard|struggl\w+|fight\w*|barely|why|whether|reasons?|unsure|if)(?: to| i)? ?)$"
)
# Only for now, or until now: "I won't kill myself tonight", "I never wanted to die until this year".
ONLY_NOW = re.compile(
    r"^ ?,? ?(?:right now|tonight|today|yet|for now|at the moment|until|till|this (?:minute|second))\b"
)
NEVER_THOUGHT = re.compile(r"\bnever (?:have |had )?(?:ever )?thought (?:that )?i(?:'?d| would| could)\b")
# Before words that are themselves a negation: "it's not that I don't want to live".
DENIED = re.compile(r"\b(?:not that|isn'?t that|not because|never said|not saying)(?: that)? (?:i|he|she|they)[ ,]*$")

_PEOPLE = (
    r"friends?|friend's|sister|brother|mom|mum|mother|dad|father|son|daughter|husband|wife|boyfriend|girlfriend|"
    r"partner|cousin|"
    r"aunt|uncle|niece|nephew|roommate|flatmate|neighbou?r|colleague|co-?worker|boss|teacher|student|classmate|kid|"
    r"kids|"
    r"child|children|baby|ex|bf|gf|bff|buddy|mate|fiancee?|grandma|grandpa|grandmother|grandfather|guy|girl|man|"
    r"woman|boy|"
    r"person|people|teen|teenager|patient|client|family|parents?|crush|sibling|stranger|dog|cat"
)
FIRST_PERSON = re.compile(
    r"\b(?:i|i'm|im|i've|ive|i'd|i'll|me|myself|my (?:mind|head|thoughts|brain|life|heart|depression|own|suicid\w*|"
    r"past|mental))\b"
)
THIRD_PERSON = re.compile(
    rf"\b(?:he|she|they|he's|she's|they're|he'd|she'd|who|(?:my|a|an|our|his|her|their|the|this|some|one|"
    rf"that) (?:[\w'-]+ ){{0,3}}?"
    rf"(?:{_PEOPLE})|someone|somebody|everyone|(?:his|her|their) (?=$))\b"
    r"|\b(?:his|her|their) $"
)

# The supporter asked, and the seeker says yes or does not say no.
ASKED = re.compile(
    r"\b(?:suicid\w+|(?:kill|hurt|harm|cut)(?:ing|ting)? yourself|end(?:ing)? your (?:own )?life|want(?:ing)? to die|"
    r"thoughts of (?:death|dying)|not wanting to (?:live|be alive))\b"
)
AGREES = re.compile(
    r"^(?:(?:yes|yeah|yep|yea|yup|ya|i am|i do|i have|i did|i think so|i guess|sometimes|kind of|kinda|sort of|maybe|"
    r"a (?:little|"
    r"bit)|often|every ?day|all the time|i don'?t know|i dunno|idk|probably|almost|i'?ve thought|it crosses|lately|"
    r"not yet|"
    r"not today|honestly,? yes|to be honest,? yes|well,? yes)\b|(?:um+|uh+|well|hm+)[, .]+(?:yes|yeah|maybe|sometimes))"
)
# After an earlier turn of that kind, these words go on from it.
GOES_ON = re.compile(
    r"\b(?:(?:going to|gonna|will|'ll|want to|have to|decided to|about to|could just) (?:just )?do it|(?:it'?s|"
    r"it is) time|"
    r"good ?bye|this is the end|i'?ve (?:already )?decided|made up my mind|the pills|(?:have|got|made) a plan|"
    r"took them|"
    r"i did it|(?:no ?one|nobody|nothing) (?:can|will) stop|too late|ready to go|end it|by then|how to do it|"
    r"(?:have|got) (?:a|the|my) (?:gun|rope|knife|razor|blade)|looking to do it|(?:on the|at the) (?:bridge|roof|"
    r"ledge|tracks))\b"
)
